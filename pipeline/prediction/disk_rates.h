#pragma once

#include <cstdint>
#include <filesystem>

#include "workers/session.h"

namespace quern {

/// Collective. Bytes per second at which all ranks together write `bytes` each into an existing
/// folder, durably; the files are removed. Rank 0 learns it.
double write_rate(Session& session, const std::filesystem::path& folder, std::uint64_t bytes);

/// Files of weights in a model folder.
struct StoredWeights {
  std::uint64_t bytes = 0;
  double bytes_per_second = 0;  ///< of all ranks together; 0 where nothing was read

  double seconds() const noexcept {
    return bytes_per_second > 0 ? static_cast<double>(bytes) / bytes_per_second : 0;
  }
};

/// Collective. Reads pieces of the weights, spread over all files, as fast as all ranks can: from
/// memory what is there, from the disk what is not. Rank 0 learns the rate.
StoredWeights read_rate(Session& session, const std::filesystem::path& model);

}  // namespace quern
