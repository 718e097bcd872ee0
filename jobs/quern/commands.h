#pragma once

#include <string>

#include "workers/files/commit_hook.h"

namespace CLI {
class App;
}

namespace quern {

/// What a subcommand leaves for main: its exit code, and the hook tests put between commit steps.
struct CommandContext {
  CommitHook commit_hook;
  int exit_code = 0;
};

/// The subcommands, one file each; each adds itself with options, help and callback.
void add_quantize(CLI::App& app, CommandContext& context);
void add_sweep(CLI::App& app, CommandContext& context);
void add_plan(CLI::App& app, CommandContext& context);
void add_status(CLI::App& app, CommandContext& context);
void add_evaluate(CLI::App& app, CommandContext& context);
void add_verify(CLI::App& app, CommandContext& context);
void add_synthesize(CLI::App& app, CommandContext& context);
void add_config(CLI::App& app, CommandContext& context);

/// The whole program. Returns the exit code.
int quern_main(int argc, char** argv, const CommitHook& hook);

}  // namespace quern
