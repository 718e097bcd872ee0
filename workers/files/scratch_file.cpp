#include "workers/files/scratch_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string>
#include <utility>

namespace quern {

ScratchFile::ScratchFile(std::filesystem::path directory) : directory_(std::move(directory)) {
  std::string name = (directory_ / "scratch-XXXXXX").string();
  descriptor_.reset(::mkostemp(name.data(), O_CLOEXEC));
  if (!descriptor_) throw store_error("make a scratch file in", directory_, errno);
  // The open descriptor keeps the bytes; without a name nothing can be left behind.
  if (::unlink(name.c_str()) != 0) throw store_error("unlink", name, errno);
}

std::uint64_t ScratchFile::append(std::span<const std::byte> bytes) {
  const std::uint64_t begin = end_;
  while (!bytes.empty()) {
    const ssize_t written =
        ::pwrite(descriptor_.get(), bytes.data(), bytes.size(), static_cast<off_t>(end_));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      throw store_error("write to a scratch file in", directory_, written < 0 ? errno : EIO,
                        bytes.size());
    }
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    end_ += static_cast<std::uint64_t>(written);
  }
  return begin;
}

void ScratchFile::read(std::uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t count =
        ::pread(descriptor_.get(), out.data(), out.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      throw store_error("read from a scratch file in", directory_, count < 0 ? errno : EIO);
    }
    out = out.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
}

}  // namespace quern
