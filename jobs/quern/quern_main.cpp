#include <CLI/CLI.hpp>

#include "jobs/quern/commands.h"
#include "kernels/core/error.h"

namespace quern {

int quern_main(int argc, char** argv, const CommitHook& hook) {
  CLI::App app{
      "Quern quantizes large language models: GPTQ on CPUs and clusters, the same bytes for any\n"
      "number of ranks, resumable after any kill.",
      "quern"};
  app.set_version_flag("--version", "quern " QUERN_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Start with:  mpirun -n 2 quern quantize configs/quickstart.yaml\n"
      "Exit codes:  0 done, 64 command line or run file, 65 bad model or data, 70 bug,\n"
      "             71 out of memory, 74 file system, 75 interrupted (run again to resume)");
  CommandContext context{hook, 0};
  add_quantize(app, context);
  add_plan(app, context);
  add_status(app, context);
  add_evaluate(app, context);
  add_verify(app, context);
  add_config(app, context);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : static_cast<int>(ExitCode::usage);
  }
  return context.exit_code;
}

}  // namespace quern
