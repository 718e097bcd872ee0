#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace quern {

/// A regular file open for reading at any place. Opening never blocks: a FIFO, a directory or a
/// device is an InputError, as is a path that is missing or not permitted.
class ReadableFile {
 public:
  explicit ReadableFile(std::filesystem::path path);
  ~ReadableFile();
  ReadableFile(const ReadableFile&) = delete;             // one descriptor, one owner
  ReadableFile& operator=(const ReadableFile&) = delete;  // likewise

  const std::filesystem::path& path() const noexcept { return path_; }
  /// Size when it was opened.
  std::uint64_t bytes() const noexcept { return bytes_; }

  /// Fills `out` with the bytes from `offset` on. Thread-safe. StoreError on a read error;
  /// InputError if the file ends before.
  void read_at(std::uint64_t offset, std::span<std::byte> out) const;

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  std::uint64_t bytes_ = 0;
};

}  // namespace quern
