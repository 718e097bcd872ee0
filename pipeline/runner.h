#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "pipeline/config/run_config.h"
#include "pipeline/run_inputs.h"
#include "pipeline/stages/evaluate.h"
#include "pipeline/stages/verify.h"
#include "workers/session.h"

namespace quern {

struct RunnerOptions {
  std::function<bool()> stop_requested;  ///< polled between units; may be empty
  bool terminal = false;                 ///< standard error is a terminal
  std::optional<Perplexity> before;      ///< of the original model, if it is known
};

/// Collective: a whole run, from the model folder to the verified output and the report. Resumes
/// what an earlier run of the same identity committed. Returns the summary on rank 0.
std::string run_quantize(Session& session, const RunFile& config, const RunnerOptions& options);

/// Collective: the same with inputs that were read before; a point of a sweep. Returns the report
/// on rank 0.
nlohmann::json run_prepared(Session& session, const RunFile& config, const RunInputs& inputs,
                            const RunnerOptions& options, Stopwatch& watch);

/// Which model `evaluate` and `verify` look at.
enum class Subject : std::uint8_t { original, run, output };

/// Collective: perplexity on evaluate.source of the original model, of a run directory's committed
/// modules, of the exported folder, or of any model folder.
Perplexity run_evaluate(Session& session, const RunFile& config, Subject subject);
Perplexity run_evaluate_folder(Session& session, const RunFile& config,
                               const std::filesystem::path& folder);

/// Collective: verify_output for a finished run.
VerifyResult run_verify(Session& session, const RunFile& config);

}  // namespace quern
