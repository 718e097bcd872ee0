#include <fmt/format.h>
#include <unistd.h>

#include "jobs/quern/commands.h"
#include "jobs/quern/options.h"
#include "pipeline/runner.h"

namespace quern {

void add_quantize(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand(
      "quantize", "quantize a model, export, verify and evaluate it; resumes an interrupted run");
  const auto options = std::make_shared<RunFileOptions>();
  add_run_file(*command, *options);
  command->callback([&context, options] {
    context.exit_code =
        launch(*options, context.commit_hook, [](Session& session, const ParsedRunFile& parsed) {
          const RunnerOptions runner{.stop_requested = stop_requested,
                                     .terminal = isatty(STDERR_FILENO) != 0};
          fmt::print("{}", run_quantize(session, parsed.run, runner));
        });
  });
}

}  // namespace quern
