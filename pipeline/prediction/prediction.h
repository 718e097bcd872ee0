#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "pipeline/config/run_config.h"
#include "pipeline/prediction/run_cost.h"
#include "workers/session.h"

namespace quern {

/// Where `plan --measure` leaves its prediction for the report of the run.
std::filesystem::path prediction_file(const RunFile& run);

/// What a prediction holds for: the run file but for what changes no cost, config.json of the
/// model, ranks, threads and the device.
nlohmann::json circumstances_of(const Session& session, const RunFile& run);

/// What a run took, to be compared with its prediction.
struct MeasuredRun {
  RunCost cost;
  nlohmann::json circumstances;
  bool is_whole = true;  ///< nothing was left by an earlier job or shared by another run
};

/// The prediction for people.
std::string prediction_text(const nlohmann::json& prediction);

/// Predicted and measured side by side, for a report: {"note", "totals", "stages"}, of rows with
/// "name", "unit" (s or bytes), "predicted" and "measured". Where the two cannot be compared there
/// are no rows, and the note says why. prediction: null if there is none, as is then the result.
nlohmann::json compare(const nlohmann::json& prediction, const MeasuredRun& measured);

/// The same with what lies in prediction_file(); one that cannot be used is a note as well.
nlohmann::json compare_with_file(const RunFile& run, const MeasuredRun& measured);

}  // namespace quern
