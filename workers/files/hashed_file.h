#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <thread>

#include "workers/files/atomic_file.h"
#include "workers/files/hash.h"

namespace quern {

/// An AtomicFile whose bytes come in any order, from any thread. A thread of its own takes the
/// SHA-256 of what is complete from the beginning, by reading it back: where the bytes come roughly
/// in order, little is left to hash when the last one is there.
class HashedFile {
 public:
  /// bytes: that are to be written, unless grow() says that there are more.
  HashedFile(std::filesystem::path final_path, std::uint64_t bytes, CommitHook hook = {});
  ~HashedFile() = default;
  HashedFile(const HashedFile&) = delete;             // its thread works on it
  HashedFile& operator=(const HashedFile&) = delete;  // likewise

  /// So many bytes more are to be written. Thread-safe.
  void grow(std::uint64_t bytes);
  /// Writes inside of the file; each byte once. Thread-safe, and therefore without the hook.
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  /// Gives the file its name; its SHA-256 as 64 hexadecimal digits. Throws InternalError if bytes
  /// are missing, StoreError if they cannot be read back.
  std::string commit();

 private:
  void follow(const std::stop_token& stop);
  void hash_until(std::uint64_t end, const std::stop_token& stop);

  AtomicFile file_;
  Descriptor reader_;                               ///< of the same file, which it outlives
  std::mutex mutex_;                                ///< guards the four below
  std::uint64_t bytes_;                             ///< of the file
  bool ended_ = false;                              ///< all of them are written
  std::uint64_t complete_ = 0;                      ///< all bytes before this place are written
  std::map<std::uint64_t, std::uint64_t> islands_;  ///< begin and end of pieces behind it
  std::condition_variable_any grown_;
  std::uint64_t hashed_ = 0;  ///< this and the next two are the thread's until it ends
  Sha256Stream hash_;
  std::exception_ptr failure_;
  std::jthread follower_;  // last: ends before what it uses
};

}  // namespace quern
