#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

#include "workers/files/durable_file.h"

namespace quern {

/// Bytes that do not fit into memory: a file without a name, gone with this object or this process
/// however it ends. Every failure is a StoreError.
class ScratchFile {
 public:
  /// Made in `directory`, which must exist.
  explicit ScratchFile(std::filesystem::path directory);

  /// Appends; returns where the bytes begin.
  std::uint64_t append(std::span<const std::byte> bytes);
  /// Fills `out` with what was appended at `offset`.
  void read(std::uint64_t offset, std::span<std::byte> out) const;

  std::uint64_t size_bytes() const noexcept { return end_; }

 private:
  std::filesystem::path directory_;
  Descriptor descriptor_;
  std::uint64_t end_ = 0;
};

}  // namespace quern
