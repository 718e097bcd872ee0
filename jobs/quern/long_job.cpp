#include "jobs/quern/long_job.h"

#include <fmt/format.h>
#include <unistd.h>

#include "jobs/quern/options.h"
#include "workers/trace_file.h"

namespace quern {
namespace {

struct LongJobOptions {
  RunFileOptions run_file;
  std::string trace;
};

}  // namespace

void add_long_job(CLI::App& app, CommandContext& context, const LongJob& job) {
  CLI::App* command = app.add_subcommand(job.name, job.description);
  const auto options = std::make_shared<LongJobOptions>();
  add_run_file(*command, options->run_file);
  add_trace(*command, options->trace);
  command->callback([&context, options, run = job.run] {
    context.exit_code = launch(options->run_file, context.commit_hook,
                               [&, run](Session& session, const ParsedRunFile& parsed) {
                                 const RunnerOptions runner{.stop_requested = stop_requested,
                                                            .terminal = isatty(STDERR_FILENO) != 0,
                                                            .before = std::nullopt};
                                 run_traced(session, options->trace, [&] {
                                   fmt::print("{}", run(session, parsed.run, runner));
                                 });
                               });
  });
}

}  // namespace quern
