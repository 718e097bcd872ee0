#include <fmt/format.h>

#include <filesystem>

#include "jobs/quern/commands.h"
#include "jobs/quern/options.h"
#include "kernels/core/error.h"
#include "pipeline/runner.h"

namespace quern {
namespace {

void report(const VerifyResult& result, const std::string& subject) {
  for (const std::string& problem : result.problems) fmt::print(stderr, "quern: {}\n", problem);
  if (!result.passed()) {
    throw InputError(fmt::format("{}: verification failed with {} problem{}", subject,
                                 result.problems.size(), result.problems.size() == 1 ? "" : "s"));
  }
  fmt::print("{}: {} quantized modules, {} other tensors, {} files: verified\n", subject,
             result.quantized_modules, result.other_tensors, result.files);
}

}  // namespace

void add_verify(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand(
      "verify", "re-read an exported model and compare it with the run, or with its SHA256SUMS");
  const auto options = std::make_shared<RunFileOptions>();
  add_run_file(*command, *options);
  command->get_option("RUN_FILE")
      ->description("run file of a finished run, or an exported folder (checks SHA256SUMS only)");
  command->callback([&context, options] {
    if (std::filesystem::is_directory(options->path)) {
      context.exit_code = guarded([&] { report(verify_sums(options->path), options->path); });
      return;
    }
    context.exit_code =
        launch(*options, context.commit_hook, [](Session& session, const ParsedRunFile& parsed) {
          const VerifyResult result = run_verify(session, parsed.run);
          session.leaving_together = true;
          if (session.is_root()) {
            report(result, parsed.run.output.path.string());
          }
        });
  });
}

}  // namespace quern
