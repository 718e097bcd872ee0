#include "jobs/quern/long_job.h"

#include <fmt/format.h>
#include <unistd.h>

#include "jobs/quern/options.h"

namespace quern {

void add_long_job(CLI::App& app, CommandContext& context, const LongJob& job) {
  CLI::App* command = app.add_subcommand(job.name, job.description);
  const auto options = std::make_shared<RunFileOptions>();
  add_run_file(*command, *options);
  command->callback([&context, options, run = job.run] {
    context.exit_code =
        launch(*options, context.commit_hook, [run](Session& session, const ParsedRunFile& parsed) {
          const RunnerOptions runner{.stop_requested = stop_requested,
                                     .terminal = isatty(STDERR_FILENO) != 0,
                                     .before = std::nullopt};
          fmt::print("{}", run(session, parsed.run, runner));
        });
  });
}

}  // namespace quern
