#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>

namespace quern {

/// What a run takes: time, and the memory of the rank that takes most.
struct RunCost {
  double seconds = 0;
  std::map<std::string, double> stages;  ///< seconds of the longest rank
  double state_bytes = 0;                ///< of the run directory on the disk
  double output_bytes = 0;               ///< of the exported files
  double host_bytes = 0;                 ///< peak
  std::optional<double> device_bytes;    ///< peak; empty on processors, whose memory is the host's

  double disk_bytes() const noexcept { return state_bytes + output_bytes; }
};

/// What the report.json of a run says, or a prediction, which has the same keys.
RunCost cost_of(const nlohmann::json& report);
nlohmann::json cost_json(const RunCost& cost);

/// A run with more layers of one kind than the short one.
struct LongerRun {
  RunCost cost;
  std::int64_t added = 0;    ///< layers more than in the short run
  std::int64_t missing = 0;  ///< layers of this kind that the whole run has beyond the short one
};

/// The whole run: the short one as it was when everything happened for the first time, and every
/// missing layer at what the added ones took beyond the short run when that was repeated. A stage
/// that more layers shorten, such as the rest of an export that they hide, ends at zero and gives
/// no more than that to the total. Memory is the most that any of them took.
RunCost extrapolated(const RunCost& first, const RunCost& repeated,
                     std::span<const LongerRun> longer);

}  // namespace quern
