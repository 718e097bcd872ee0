#include "workers/files/durable_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

namespace quern {
namespace {

struct Advice {
  int error;
  std::string_view text;
};

constexpr std::string_view kSafe = "nothing committed is lost";
constexpr std::array kAdvice = {
    Advice{ENOSPC, "the disk is full: free space and run again"},
    Advice{EDQUOT, "the disk quota is used up: free space or raise the quota, and run again"},
    Advice{EFBIG,
           "the file exceeds what the file system or `ulimit -f` allows: raise the limit "
           "or use another file system, and run again"},
    Advice{EACCES, "grant this user write access to the file and its directory, and run again"},
    Advice{EPERM, "the file system forbids this to this user: use another one, and run again"},
    Advice{EROFS,
           "the file system is mounted read-only: remount it or use another directory, and "
           "run again"},
    Advice{EIO, "the device or the file server failed: check the system log before running again"},
    Advice{ENOENT, "the directory is missing: restore it and run again"},
    Advice{ENOTDIR, "a part of the path is a file: move it away and run again"},
    Advice{EISDIR, "a directory has the file's name: move it away and run again"},
    Advice{EMFILE, "too many files are open: raise `ulimit -n` and run again"},
};

std::string_view advice_for(int error) {
  for (const Advice& advice : kAdvice) {
    if (advice.error == error) return advice.text;
  }
  return "remove the cause and run again";
}

/// Repeats a system call while signals interrupt it.
template <typename Call>
auto uninterrupted(Call&& call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

/// What is left to write of some pieces, in order.
class UnwrittenPieces {
 public:
  explicit UnwrittenPieces(std::span<const std::span<const std::byte>> pieces) : pieces_(pieces) {
    for (const std::span<const std::byte> piece : pieces_) bytes_ += piece.size();
    skip(0);
  }

  std::uint64_t bytes() const noexcept { return bytes_; }

  /// The first of them, as many as one call takes.
  std::span<const iovec> next() noexcept {
    std::size_t count = 0;
    for (const std::span<const std::byte> piece : pieces_.first(std::min(pieces_.size(), kMost))) {
      const std::span<const std::byte> rest = count == 0 ? piece.subspan(begin_) : piece;
      // The system's type has no place for a constant.
      batch_[count++] = {const_cast<std::byte*>(rest.data()), rest.size()};
    }
    return std::span(batch_).first(count);
  }

  /// Also empty pieces, which no call can write.
  void skip(std::uint64_t bytes) noexcept {
    bytes_ -= bytes;
    begin_ += bytes;
    while (!pieces_.empty() && begin_ >= pieces_.front().size()) {
      begin_ -= pieces_.front().size();
      pieces_ = pieces_.subspan(1);
    }
  }

 private:
  static constexpr std::size_t kMost = 256;

  std::span<const std::span<const std::byte>> pieces_;
  std::uint64_t begin_ = 0;  ///< in the first piece
  std::uint64_t bytes_ = 0;
  std::array<iovec, kMost> batch_;
};

}  // namespace

void DescriptorTraits::close(Handle descriptor) noexcept {
  ::close(descriptor);
}

StoreError store_error(std::string_view operation, const std::filesystem::path& path, int error,
                       std::uint64_t missing_bytes) {
  const std::string missing =
      missing_bytes == 0 ? "" : fmt::format(", {} bytes were still to be written", missing_bytes);
  return StoreError(fmt::format("{} {}: {}{}; {}; {}", operation, path.string(),
                                std::generic_category().message(error), missing, advice_for(error),
                                kSafe));
}

DurableFile::DurableFile(std::filesystem::path path, Contents contents, CommitHook hook)
    : path_(std::move(path)), hook_(std::move(hook)) {
  durable_step(hook_, "open", path_, [&] {
    const int flags =
        O_WRONLY | O_CREAT | O_CLOEXEC | (contents == Contents::discard ? O_TRUNC : 0);
    descriptor_.reset(uninterrupted([&] { return ::open(path_.c_str(), flags, 0666); }));
    struct stat status {};
    if (!descriptor_ || fstat(descriptor_.get(), &status) != 0) {
      throw store_error("open for writing", path_, errno);
    }
    end_ = static_cast<std::uint64_t>(status.st_size);
  });
}

void DurableFile::write(std::span<const std::byte> bytes) {
  write_pieces({&bytes, 1});
}

void DurableFile::write_pieces(std::span<const std::span<const std::byte>> pieces) {
  durable_step(hook_, "write", path_, [&] {
    UnwrittenPieces unwritten(pieces);
    while (unwritten.bytes() > 0) {
      const std::span<const iovec> next = unwritten.next();
      const ssize_t written = uninterrupted([&] {
        return pwritev(descriptor_.get(), next.data(), static_cast<int>(next.size()),
                       static_cast<off_t>(end_));
      });
      if (written <= 0) {
        throw store_error("write", path_, written < 0 ? errno : EIO, unwritten.bytes());
      }
      unwritten.skip(static_cast<std::uint64_t>(written));
      end_ += static_cast<std::uint64_t>(written);
    }
    hand_over();
  });
}

/// Lets the disk work on large files while they grow.
void DurableFile::hand_over() noexcept {
  constexpr std::uint64_t kPiece = 64U << 20;
  if (end_ < handed_over_ + kPiece) return;
  start_writeback(handed_over_, end_ - handed_over_);
  handed_over_ = end_;
}

void DurableFile::start_writeback(std::uint64_t offset, std::uint64_t bytes) const noexcept {
  constexpr std::uint64_t kWorthACall = 1U << 20;
  if (bytes < kWorthACall) return;
  // File systems that do not know it lose nothing.
  sync_file_range(descriptor_.get(), static_cast<off_t>(offset), static_cast<off_t>(bytes),
                  SYNC_FILE_RANGE_WRITE);
}

void DurableFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t written = uninterrupted([&] {
      return pwrite(descriptor_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    });
    if (written <= 0) throw store_error("write", path_, written < 0 ? errno : EIO, bytes.size());
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    offset += static_cast<std::uint64_t>(written);
  }
}

void DurableFile::truncate(std::uint64_t bytes) {
  durable_step(hook_, "truncate", path_, [&] {
    const auto cut = [&] { return ftruncate(descriptor_.get(), static_cast<off_t>(bytes)); };
    if (uninterrupted(cut) != 0) throw store_error("truncate", path_, errno);
    end_ = bytes;
  });
}

void DurableFile::sync() {
  durable_step(hook_, "fsync", path_, [&] {
    if (uninterrupted([&] { return fsync(descriptor_.get()); }) != 0) {
      throw store_error("fsync", path_, errno);
    }
  });
}

void DurableFile::close() {
  durable_step(hook_, "close", path_, [&] {
    // An interrupted close has closed on Linux; a second one could hit another thread's file.
    if (::close(descriptor_.release()) != 0 && errno != EINTR) {
      throw store_error("close", path_, errno);
    }
  });
}

void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to,
                    const CommitHook& hook) {
  durable_step(hook, "rename", to, [&] {
    if (std::rename(from.c_str(), to.c_str()) != 0) {
      throw store_error("rename " + from.string() + " to", to, errno);
    }
  });
  sync_directory(to.parent_path(), hook);
}

void sync_directory(const std::filesystem::path& directory, const CommitHook& hook) {
  const std::filesystem::path path = directory.empty() ? "." : directory;
  durable_step(hook, "fsync directory", path, [&] {
    const auto open_it = [&] { return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); };
    const Descriptor descriptor(uninterrupted(open_it));
    if (!descriptor) throw store_error("open directory", path, errno);
    // EINVAL: this file system has no such call and orders its directory updates itself.
    if (uninterrupted([&] { return fsync(descriptor.get()); }) != 0 && errno != EINVAL) {
      throw store_error("fsync directory", path, errno);
    }
  });
}

}  // namespace quern
