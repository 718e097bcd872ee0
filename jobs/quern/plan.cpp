#include "pipeline/plan.h"

#include <fmt/format.h>

#include "jobs/quern/commands.h"
#include "jobs/quern/options.h"
#include "kernels/core/error.h"
#include "pipeline/plan_text.h"
#include "pipeline/prediction/predict.h"
#include "pipeline/prediction/prediction.h"

namespace quern {
namespace {

struct PlanOptions {
  RunFileOptions run_file;
  int ranks = 1;
  bool measure = false;
  bool json = false;
};

void show_plan(const PlanOptions& options) {
  const ParsedRunFile parsed = parse_run_file(read_run_file(options.run_file.path),
                                              options.run_file.path, options.run_file.overrides);
  const ModelGraph graph = read_model_graph(parsed.run.model.path, parsed.run.model.ignore_fields);
  const Plan plan = make_plan(graph, parsed.run);
  const nlohmann::json description = plan_json(graph, plan, parsed.run, options.ranks);
  fmt::print("{}", options.json ? description.dump(2) + "\n" : plan_text(description));
}

/// Collective: with the ranks that the job has.
void measure(Session& session, const RunFile& run, bool as_json) {
  const nlohmann::json prediction = predict_run(session, run, stop_requested);
  if (!session.is_root()) return;
  fmt::print("{}", as_json ? prediction.dump(2) + "\n" : prediction_text(prediction));
}

int run_plan(const PlanOptions& options, const CommitHook& hook) {
  if (!options.measure) return guarded([&] { show_plan(options); });
  return launch(options.run_file, hook, [&](Session& session, const ParsedRunFile& parsed) {
    measure(session, parsed.run, options.json);
  });
}

}  // namespace

void add_plan(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand(
      "plan", "what a run will do and take; needs the model's config.json, no weights");
  const auto options = std::make_shared<PlanOptions>();
  add_run_file(*command, options->run_file);
  auto* ranks = command->add_option("--ranks", options->ranks, "ranks of the job, default 1")
                    ->check(CLI::Range(1, 1 << 20));
  command
      ->add_flag("--measure", options->measure,
                 "run a few layers here, on synthetic weights and the ranks of this job, and "
                 "predict time, memory and disk; the run's report compares")
      ->excludes(ranks);
  command->add_flag("--json", options->json, "one JSON object on standard output");
  command->callback(
      [&context, options] { context.exit_code = run_plan(*options, context.commit_hook); });
}

}  // namespace quern
