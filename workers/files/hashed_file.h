#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "workers/files/atomic_file.h"
#include "workers/files/hash.h"

namespace quern {

/// An AtomicFile whose SHA-256 is taken on the way, from the bytes in memory and while they are
/// written: nobody has to read the file again, and what the disk does to them will show.
class HashedFile {
 public:
  explicit HashedFile(std::filesystem::path final_path, CommitHook hook = {})
      : file_(std::move(final_path), std::move(hook)) {}

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  /// Gives the file its name; its SHA-256 as 64 hexadecimal digits.
  std::string commit();

 private:
  AtomicFile file_;
  Sha256Stream hash_;
};

}  // namespace quern
