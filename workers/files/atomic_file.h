#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "workers/files/commit_hook.h"
#include "workers/files/durable_file.h"

namespace quern {

/// Writes a file under its name + ".tmp"; commit() makes it durable and gives it its final name:
/// fsync, close, rename, fsync of the directory. Without commit() the temporary is removed.
/// Every failure is a StoreError with path, operation, errno text, what to do and, for a failed
/// write, the bytes that were still to be written.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path final_path, CommitHook hook = {});
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;             // one descriptor, one owner
  AtomicFile& operator=(const AtomicFile&) = delete;  // likewise

  /// Appends, retrying short writes.
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  void write_pieces(std::span<const std::span<const std::byte>> pieces) {
    file_.write_pieces(pieces);
  }
  /// Makes room for `bytes` behind what was appended; they are then written by write_at().
  void extend(std::uint64_t bytes) { file_.truncate(file_.size_bytes() + bytes); }
  /// Writes at a place that extend() made. Thread-safe.
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes) const {
    file_.write_at(offset, bytes);
  }
  /// Hands what was written there to the disk, which works on it meanwhile. Thread-safe.
  void start_writeback(std::uint64_t offset, std::uint64_t bytes) const noexcept {
    file_.start_writeback(offset, bytes);
  }
  void commit();

  const std::filesystem::path& temporary_path() const noexcept { return file_.path(); }

 private:
  std::filesystem::path final_path_;
  CommitHook hook_;
  DurableFile file_;
  bool committed_ = false;
};

/// Makes an already written and closed temporary durable under its final name: fsync of the file,
/// rename, fsync of the directory. For files written by libraries.
void publish_file(const std::filesystem::path& temporary, const std::filesystem::path& final_path,
                  const CommitHook& hook);

/// Whole file. Throws InputError if it cannot be opened or read, naming the path and the reason.
std::string read_text_file(const std::filesystem::path& path);
std::vector<std::byte> read_binary_file(const std::filesystem::path& path);

/// AtomicFile with one write.
void write_text_file(const std::filesystem::path& path, std::string_view text,
                     const CommitHook& hook = {});

/// Makes the missing directories of a path, durably. Several ranks may do so at once.
void make_directories(const std::filesystem::path& path, const CommitHook& hook = {});

/// Removes a directory and all in it, as far as that goes, also while other ranks remove their own
/// files there: std::filesystem::remove_all alone gives up at the first that is gone.
void remove_directory(const std::filesystem::path& path) noexcept;

/// Throws StoreError unless this process may create files in the directory.
void require_writable(const std::filesystem::path& directory);

/// True for the root of a file system, over which nothing can be renamed.
bool is_mount_point(const std::filesystem::path& directory);

}  // namespace quern
