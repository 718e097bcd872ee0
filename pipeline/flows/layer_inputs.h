#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <utility>
#include <variant>

#include "workers/files/scratch_file.h"
#include "workers/session.h"

namespace quern {

/// Bytes that kept layer inputs may take where; what exceeds both goes to a scratch file.
struct LayerInputBudget {
  std::uint64_t device_bytes = 0;
  std::uint64_t host_bytes = 0;  ///< 0: half of the host memory that is free now, shared by the
                                 ///< job's ranks on this host
};

/// What this rank's micro-batches looked like at the input of each layer, kept for the backward
/// pass: on the device first, then in host memory, the rest in a scratch file.
class LayerInputs {
 public:
  /// directory: where the scratch file is made if one is needed.
  LayerInputs(Session& session, std::filesystem::path directory, const LayerInputBudget& budget);

  /// Copies the residual. Asynchronous where it stays on the device.
  void keep(std::int64_t layer, std::int64_t round, ConstTensorView residual);
  /// A copy on the device. Throws StoreError if the scratch file cannot be read.
  Tensor fetch(std::int64_t layer, std::int64_t round) const;
  /// Frees the memory of a layer that is not needed any more.
  void forget(std::int64_t layer);

  std::uint64_t device_bytes() const noexcept { return device_bytes_; }
  std::uint64_t host_bytes() const noexcept { return host_bytes_; }
  std::uint64_t scratch_bytes() const noexcept { return scratch_ ? scratch_->size_bytes() : 0; }

 private:
  using Offset = std::uint64_t;  ///< in the scratch file
  struct Kept {
    DType dtype = DType::f32;
    Shape shape{0};
    std::uint64_t bytes = 0;
    std::variant<Tensor, HostBuffer, Offset> place;
  };

  Tensor copy_of(ConstTensorView residual) const;

  Session& session_;
  std::filesystem::path directory_;
  LayerInputBudget budget_;
  std::uint64_t device_bytes_ = 0;
  std::uint64_t host_bytes_ = 0;
  std::optional<ScratchFile> scratch_;
  std::map<std::pair<std::int64_t, std::int64_t>, Kept> kept_;  ///< by layer and round
};

}  // namespace quern
