#pragma once

#include <functional>
#include <nlohmann/json.hpp>

#include "pipeline/config/run_config.h"
#include "workers/session.h"

namespace quern {

/// Collective. Predicts what a run takes by running shortened copies of it here: a short one when
/// everything happens for the first time, the same again, and one with more layers of each kind of
/// layer; what the added layers take is extrapolated to all. Needs config.json alone of the model.
/// Leaves prediction_file() and nothing else. The prediction is complete on rank 0.
/// Throws ConfigError for the run file of a sweep, Interrupted when stop_requested says so.
nlohmann::json predict_run(Session& session, const RunFile& run,
                           const std::function<bool()>& stop_requested);

}  // namespace quern
