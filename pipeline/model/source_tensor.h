#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "pipeline/model/weight_source.h"

namespace quern {

/// A tensor of a WeightSource, read in pieces: from the file where it lies, or from the whole of
/// what its source computes, which is held as long as this.
class SourceTensor {
 public:
  SourceTensor() = default;  ///< of no bytes
  /// Throws what WeightSource::read throws. source: outlives this.
  SourceTensor(const WeightSource& source, const std::string& name);

  DType dtype() const { return stored_ ? stored_->dtype : computed_.dtype; }
  std::size_t bytes() const { return stored_ ? stored_->bytes : computed_.bytes.size(); }
  /// Bytes from `begin` on. Thread-safe. Throws StoreError or InputError naming the file.
  void read(std::size_t begin, std::span<std::byte> out) const;
  /// Elements [first, first + elems); `block` keeps its memory while sizes are the same.
  void read_elems(std::int64_t first, std::int64_t elems, HostTensor& block) const;

 private:
  std::optional<StoredTensor> stored_;
  HostTensor computed_;
};

}  // namespace quern
