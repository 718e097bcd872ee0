#include "pipeline/plan.h"

#include <fmt/format.h>

#include "jobs/quern/commands.h"
#include "jobs/quern/options.h"
#include "kernels/core/error.h"
#include "pipeline/plan_text.h"

namespace quern {
namespace {

struct PlanOptions {
  RunFileOptions run_file;
  int ranks = 1;
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

}  // namespace

void add_plan(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand(
      "plan", "what a run will do and take; needs the model's config.json, no weights");
  const auto options = std::make_shared<PlanOptions>();
  add_run_file(*command, options->run_file);
  command->add_option("--ranks", options->ranks, "ranks of the job, default 1")
      ->check(CLI::Range(1, 1 << 20));
  command->add_flag("--json", options->json, "one JSON object on standard output");
  command->callback(
      [&context, options] { context.exit_code = guarded([&] { show_plan(*options); }); });
}

}  // namespace quern
