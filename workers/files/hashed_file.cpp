#include "workers/files/hashed_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "kernels/core/error.h"

namespace quern {

HashedFile::HashedFile(std::filesystem::path final_path, std::uint64_t bytes, CommitHook hook)
    : file_(std::move(final_path), std::move(hook)), bytes_(bytes) {
  file_.extend(bytes);
  reader_.reset(::open(file_.temporary_path().c_str(), O_RDONLY | O_CLOEXEC));
  if (!reader_) throw store_error("open for reading", file_.temporary_path(), errno);
  follower_ = std::jthread([this](const std::stop_token& stop) { follow(stop); });
}

void HashedFile::grow(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  bytes_ += bytes;
}

void HashedFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  {
    const std::lock_guard lock(mutex_);
    ensure(offset + bytes.size() <= bytes_, "writes inside of a file");
  }
  if (bytes.empty()) return;
  file_.write_at(offset, bytes);
  file_.start_writeback(offset, bytes.size());
  const std::lock_guard lock(mutex_);
  islands_[offset] = offset + bytes.size();
  while (!islands_.empty() && islands_.begin()->first == complete_) {
    complete_ = islands_.begin()->second;
    islands_.erase(islands_.begin());
  }
  grown_.notify_one();
}

std::string HashedFile::commit() {
  {
    const std::lock_guard lock(mutex_);
    ensure(complete_ == bytes_, "every byte of a file before its commit");
    ended_ = true;
    grown_.notify_one();
  }
  file_.commit();  // the disk and the hash take their time together
  follower_.join();
  if (failure_) std::rethrow_exception(failure_);
  return hash_.hex();
}

void HashedFile::follow(const std::stop_token& stop) {
  try {
    while (!stop.stop_requested()) {
      std::uint64_t end = 0;
      {
        std::unique_lock lock(mutex_);
        grown_.wait(lock, stop, [&] { return complete_ > hashed_ || ended_; });
        end = complete_;
      }
      if (end == hashed_) return;
      hash_until(end, stop);
    }
  } catch (...) {
    failure_ = std::current_exception();
  }
}

void HashedFile::hash_until(std::uint64_t end, const std::stop_token& stop) {
  constexpr std::uint64_t kPiece = 256U << 10;  // stays in the cache between the copy and the hash
  std::vector<std::byte> piece(std::min(kPiece, end - hashed_));
  while (hashed_ < end && !stop.stop_requested()) {
    const std::size_t wanted = std::min<std::uint64_t>(piece.size(), end - hashed_);
    const ssize_t count = ::pread(reader_.get(), piece.data(), wanted, static_cast<off_t>(hashed_));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) throw store_error("read back", file_.temporary_path(), count < 0 ? errno : EIO);
    hash_.update({piece.data(), static_cast<std::size_t>(count)});
    hashed_ += static_cast<std::uint64_t>(count);
  }
}

}  // namespace quern
