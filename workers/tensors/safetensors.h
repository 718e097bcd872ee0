#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "workers/files/atomic_file.h"
#include "workers/tensors/readable_file.h"
#include "workers/tensors/safetensors_header.h"

namespace quern {

/// The checked header of one safetensors file, and reads from it by pread. Everything is checked
/// in the constructor: InputError with file, tensor, what was found and what was expected.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(std::filesystem::path path);

  const std::filesystem::path& path() const noexcept { return file_.path(); }
  const std::map<std::string, TensorEntry>& entries() const noexcept { return entries_; }
  std::uint64_t file_bytes() const noexcept { return file_.bytes(); }
  /// xxh3_hex of the header bytes: names, types, shapes and places.
  const std::string& header_hash() const noexcept { return header_hash_; }

  /// Bytes of a tensor into `out` (its exact size). Thread-safe. StoreError on a read error.
  void read(const TensorEntry& entry, std::span<std::byte> out) const;
  /// Any bytes of the file, for fingerprints.
  void read_at(std::uint64_t offset, std::span<std::byte> out) const;

 private:
  ReadableFile file_;
  std::map<std::string, TensorEntry> entries_;
  std::string header_hash_;
};

/// Writes one safetensors file through AtomicFile. The header is known from the specs (sorted by
/// name, padded to 8 bytes, __metadata__ {"format": "pt"}); the data follow in the same order.
class SafetensorsWriter {
 public:
  SafetensorsWriter(std::filesystem::path path, std::vector<TensorSpec> specs,
                    CommitHook hook = {});

  /// In the order data must be written.
  const std::vector<TensorSpec>& specs() const noexcept { return specs_; }
  /// Throws InternalError if `name` is not the next tensor or the size differs.
  void write(std::string_view name, std::span<const std::byte> bytes);
  /// Throws InternalError if tensors are missing.
  void commit();

 private:
  std::vector<TensorSpec> specs_;
  std::size_t next_ = 0;
  AtomicFile file_;
};

}  // namespace quern
