#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "jobs/quern/commands.h"
#include "jobs/quern/options.h"
#include "kernels/core/error.h"
#include "pipeline/runner.h"
#include "workers/trace_file.h"

namespace quern {
namespace {

struct EvaluateOptions {
  RunFileOptions run_file;
  std::string folder;
  std::string trace;
  Subject subject = Subject::output;
  bool json = false;
};

void evaluate(Session& session, const ParsedRunFile& parsed, const EvaluateOptions& options) {
  const Perplexity result = options.folder.empty()
                                ? run_evaluate(session, parsed.run, options.subject)
                                : run_evaluate_folder(session, parsed.run, options.folder);
  if (!session.is_root()) return;
  if (options.json) {
    const nlohmann::json json = {{"perplexity", result.perplexity},
                                 {"mean_nll", result.mean_nll},
                                 {"tokens", result.tokens},
                                 {"windows", result.windows}};
    fmt::print("{}\n", json.dump());
  } else {
    fmt::print("perplexity {:.5f} (mean negative log-likelihood {:.7f}, {} windows, {} tokens)\n",
               result.perplexity, result.mean_nll, result.windows, result.tokens);
  }
}

}  // namespace

void add_evaluate(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand(
      "evaluate", "perplexity of the exported model, the original, or the state of a run");
  const auto options = std::make_shared<EvaluateOptions>();
  add_run_file(*command, options->run_file);
  add_trace(*command, options->trace);
  const std::map<std::string, Subject> subjects = {
      {"original", Subject::original}, {"run", Subject::run}, {"output", Subject::output}};
  auto* what = command
                   ->add_option("--what", options->subject,
                                "original: model.path; run: the committed modules of "
                                "run.directory; output: output.path (default)")
                   ->transform(CLI::CheckedTransformer(subjects, CLI::ignore_case));
  command->add_option("--folder", options->folder, "any model folder, plain or GPTQ packed")
      ->excludes(what);
  command->add_flag("--json", options->json, "one JSON object on standard output");
  command->callback([&context, options] {
    context.exit_code = launch(
        options->run_file, context.commit_hook, [&](Session& session, const ParsedRunFile& parsed) {
          run_traced(session, options->trace, [&] { evaluate(session, parsed, *options); });
        });
  });
}

}  // namespace quern
