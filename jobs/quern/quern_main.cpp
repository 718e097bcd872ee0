#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "jobs/quern/commands.h"
#include "jobs/quern/launch.h"
#include "kernels/core/error.h"

namespace quern {
namespace {

/// Help and version go to standard output; a mistake is reported like every other.
int answer(const CLI::App& app, const CLI::ParseError& error) {
  if (error.get_exit_code() == 0) return app.exit(error);
  std::string program = "quern";
  for (const CLI::App* command : app.get_subcommands()) program += " " + command->get_name();
  const std::vector<std::string> unknown = app.remaining();
  const std::string what = app.get_subcommands().empty() && !unknown.empty()
                               ? fmt::format("'{}' is not a subcommand", unknown.front())
                               : error.what();
  return guarded(
      [&] { throw ConfigError(fmt::format("command line: {}; see '{} --help'", what, program)); });
}

}  // namespace

int quern_main(int argc, char** argv, const CommitHook& hook) {
  CLI::App app{
      "Quern quantizes large language models: GPTQ and SqueezeLLM on CPUs and clusters, the same\n"
      "bytes for any number of ranks, resumable after any kill.",
      "quern"};
  app.set_version_flag("--version", "quern " QUERN_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Start with:  mpirun -n 2 quern quantize configs/quickstart.yaml\n"
      "Exit codes:  0 done, 64 command line or run file, 65 bad model or data, 70 bug,\n"
      "             71 out of memory, 74 file system, 75 interrupted (run again to resume)");
  CommandContext context{hook, 0};
  add_quantize(app, context);
  add_sweep(app, context);
  add_plan(app, context);
  add_status(app, context);
  add_evaluate(app, context);
  add_verify(app, context);
  add_synthesize(app, context);
  add_config(app, context);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return answer(app, error);
  }
  return context.exit_code;
}

}  // namespace quern
