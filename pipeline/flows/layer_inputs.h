#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <utility>

#include "workers/files/scratch_file.h"
#include "workers/session.h"

namespace quern {

/// What this rank's micro-batches looked like at the input of each layer, kept for the backward
/// pass: in host memory up to a budget, the rest in a scratch file.
class LayerInputs {
 public:
  /// directory: where the scratch file is made if one is needed. budget_bytes 0: half of the host
  /// memory that is free now, shared by the job's ranks on this host.
  LayerInputs(Session& session, std::filesystem::path directory, std::uint64_t budget_bytes);

  void keep(std::int64_t layer, std::int64_t round, ConstTensorView residual);
  /// On the device again. Throws StoreError if the scratch file cannot be read.
  Tensor fetch(std::int64_t layer, std::int64_t round) const;
  /// Frees the memory of a layer that is not needed any more.
  void forget(std::int64_t layer);

  std::uint64_t host_bytes() const noexcept { return host_bytes_; }
  std::uint64_t scratch_bytes() const noexcept { return scratch_ ? scratch_->size_bytes() : 0; }

 private:
  struct Kept {
    HostTensor tensor;  ///< without bytes while they are in the file
    std::optional<std::uint64_t> offset;
  };

  Session& session_;
  std::filesystem::path directory_;
  std::uint64_t budget_bytes_;
  std::uint64_t host_bytes_ = 0;
  std::optional<ScratchFile> scratch_;
  std::map<std::pair<std::int64_t, std::int64_t>, Kept> kept_;  ///< by layer and round
};

}  // namespace quern
