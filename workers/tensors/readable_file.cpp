#include "workers/tensors/readable_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <system_error>
#include <utility>

#include "kernels/core/error.h"

namespace quern {
namespace {

std::string error_text(int number) {
  return std::generic_category().message(number);
}

[[noreturn]] void fail_open(const std::filesystem::path& path, int number) {
  const std::string message =
      fmt::format("{}: cannot open the file: {}", path.string(), error_text(number));
  switch (number) {
    case EIO:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ESTALE:
      throw StoreError(message);
    default:
      throw InputError(message + "; check the path and its permissions");
  }
}

std::string_view kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

}  // namespace

ReadableFile::ReadableFile(std::filesystem::path path) : path_(std::move(path)) {
  // Without O_NONBLOCK a FIFO would wait for a writer.
  do {
    descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } while (descriptor_ < 0 && errno == EINTR);
  if (descriptor_ < 0) fail_open(path_, errno);
  struct stat status {};
  const int failed = ::fstat(descriptor_, &status) == 0 ? 0 : errno;
  if (failed == 0 && S_ISREG(status.st_mode)) {
    bytes_ = static_cast<std::uint64_t>(status.st_size);
    return;
  }
  ::close(descriptor_);
  if (failed != 0) fail_open(path_, failed);
  throw InputError(
      fmt::format("{}: is {}, expected a regular file", path_.string(), kind_of(status.st_mode)));
}

ReadableFile::~ReadableFile() {
  ::close(descriptor_);
}

void ReadableFile::read_at(std::uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t count = ::pread(descriptor_, out.data(), out.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      throw StoreError(fmt::format("{}: cannot read {} bytes at offset {}: {}", path_.string(),
                                   out.size(), offset, error_text(errno)));
    }
    if (count == 0) {
      throw InputError(fmt::format(
          "{}: ended at byte {}, {} bytes too early; it had {} bytes when it was opened, so it was "
          "truncated meanwhile; do not change a model that is being read",
          path_.string(), offset, out.size(), bytes_));
    }
    offset += static_cast<std::uint64_t>(count);
    out = out.subspan(static_cast<std::size_t>(count));
  }
}

}  // namespace quern
