#pragma once

#include <functional>
#include <string>
#include <vector>

#include "pipeline/config/parse.h"
#include "workers/files/commit_hook.h"
#include "workers/session.h"

namespace quern {

/// What every subcommand that takes a run file has on its command line.
struct RunFileOptions {
  std::string path;
  std::vector<std::string> overrides;  ///< --set key=value
};

/// Runs `body` in a session on every rank of the job: reads the run file on rank 0, parses it
/// everywhere, and turns whatever is thrown into one message and an exit code. hook: for tests.
int launch(const RunFileOptions& options, const CommitHook& hook,
           const std::function<void(Session&, const ParsedRunFile&)>& body);

/// The same for work without a session, messages and exit codes only. Processes of an MPI job all
/// do the work; the first one reports.
int guarded(const std::function<void()>& body);

/// True for the first process of an MPI job, and for a process outside of MPI.
bool is_first_process();

/// Text of the run file, or ConfigError.
std::string read_run_file(const std::string& path);

/// Set by SIGUSR2, SIGTERM or SIGINT once launch() has begun.
bool stop_requested() noexcept;

}  // namespace quern
