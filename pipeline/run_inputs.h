#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "pipeline/config/run_config.h"
#include "pipeline/model/forward.h"
#include "pipeline/model/weight_source.h"
#include "pipeline/stopwatch.h"
#include "workers/session.h"

namespace quern {

/// What a run reads before it does anything: every mistake in it is found here. The points of a
/// sweep share it.
struct RunInputs {
  OpenModel model;
  std::optional<MicroBatches> calibration;  ///< absent for a method without statistics
  std::string calibration_hash;
  std::optional<MicroBatches> evaluation;  ///< absent if none is asked for
};

/// Collective. Throws InputError for a model that is quantized already.
RunInputs read_inputs(Session& session, const RunFile& config, Stopwatch& watch);

/// make_identity() of a run of these inputs, which may have been read for a method that needs more.
nlohmann::json identity_of(const Session& session, const RunFile& config, const RunInputs& inputs);

/// Collective. open_model() on every rank.
OpenModel open_on_all_ranks(Session& session, const RunFile& config,
                            const std::filesystem::path& folder);

/// Collective. Throws ConfigError where no evaluation text is configured.
MicroBatches required_evaluation_batches(Session& session, const RunFile& config,
                                         const OpenModel& model);

}  // namespace quern
