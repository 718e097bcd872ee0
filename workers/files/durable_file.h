#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

#include "kernels/core/error.h"
#include "kernels/core/unique_handle.h"
#include "workers/files/commit_hook.h"

namespace quern {

struct DescriptorTraits {
  using Handle = int;
  static constexpr Handle none() noexcept { return -1; }
  static void close(Handle descriptor) noexcept;
};
/// An open file descriptor.
using Descriptor = UniqueHandle<DescriptorTraits>;

/// The error of a system call that failed with errno `error`: what could not be done, to which
/// path, why, how many bytes were still to be written, and what to do about it.
StoreError store_error(std::string_view operation, const std::filesystem::path& path, int error,
                       std::uint64_t missing_bytes = 0);

/// A file being written. Every step passes the hook; every failure is a store_error().
class DurableFile {
 public:
  enum class Contents { discard, keep };

  /// Opens or creates. Contents::keep writes behind what is there.
  DurableFile(std::filesystem::path path, Contents contents, CommitHook hook = {});

  /// Appends, retrying short and interrupted writes.
  void write(std::span<const std::byte> bytes);
  /// Appends pieces as one write of all.
  void write_pieces(std::span<const std::span<const std::byte>> pieces);
  /// Writes inside of what size_bytes() says. Thread-safe, and therefore without the hook.
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes) const;
  /// Hands what was written there to the disk, so that sync() has little left to wait for; small
  /// pieces are left to it. A hint, and thread-safe.
  void start_writeback(std::uint64_t offset, std::uint64_t bytes) const noexcept;
  /// Cuts or extends the file; the next write goes there.
  void truncate(std::uint64_t bytes);
  std::uint64_t size_bytes() const noexcept { return end_; }
  void sync();
  /// Must be called for a file that matters: network file systems report a full disk here.
  void close();

  bool is_open() const noexcept { return static_cast<bool>(descriptor_); }
  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  void hand_over() noexcept;

  std::filesystem::path path_;
  CommitHook hook_;
  Descriptor descriptor_;
  std::uint64_t handed_over_ = 0;  // of end_, to the disk
  std::uint64_t end_ = 0;
};

/// Renames over whatever has the name `to`, and makes that durable.
void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to,
                    const CommitHook& hook);

/// Makes creations, renames and removals in a directory durable.
void sync_directory(const std::filesystem::path& directory, const CommitHook& hook);

}  // namespace quern
