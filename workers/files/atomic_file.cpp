#include "workers/files/atomic_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

namespace quern {
namespace {

InputError read_error(const std::filesystem::path& path, int error) {
  return InputError(fmt::format("read {}: {}; check the path and its permissions", path.string(),
                                std::generic_category().message(error)));
}

template <typename Bytes>
Bytes read_whole(const std::filesystem::path& path) {
  // Without O_NONBLOCK a FIFO would wait for a writer.
  const Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status {};
  if (!descriptor || fstat(descriptor.get(), &status) != 0) throw read_error(path, errno);
  if (S_ISDIR(status.st_mode)) throw read_error(path, EISDIR);
  if (!S_ISREG(status.st_mode)) {
    throw InputError(
        fmt::format("read {}: it is a device or a pipe; expected a regular file", path.string()));
  }
  // One byte more than the size, so that a whole file ends without growing the buffer.
  Bytes contents(static_cast<std::size_t>(status.st_size) + 1, typename Bytes::value_type{});
  std::size_t length = 0;
  for (;;) {
    const ssize_t count =
        ::read(descriptor.get(), contents.data() + length, contents.size() - length);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw read_error(path, errno);
    if (count == 0) break;
    length += static_cast<std::size_t>(count);
    if (length == contents.size()) contents.resize(2 * length);
  }
  contents.resize(length);
  return contents;
}

}  // namespace

AtomicFile::AtomicFile(std::filesystem::path final_path, CommitHook hook)
    : final_path_(std::move(final_path)),
      hook_(std::move(hook)),
      file_(final_path_.string() + ".tmp", DurableFile::Contents::discard, hook_) {}

AtomicFile::~AtomicFile() {
  if (!committed_) ::unlink(file_.path().c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  file_.write(bytes);
}

void AtomicFile::write(std::string_view text) {
  write(std::as_bytes(std::span(text)));
}

void AtomicFile::commit() {
  file_.sync();
  file_.close();
  rename_durably(file_.path(), final_path_, hook_);
  committed_ = true;
}

void publish_file(const std::filesystem::path& temporary, const std::filesystem::path& final_path,
                  const CommitHook& hook) {
  DurableFile file(temporary, DurableFile::Contents::keep, hook);
  file.sync();
  file.close();
  rename_durably(temporary, final_path, hook);
}

std::string read_text_file(const std::filesystem::path& path) {
  return read_whole<std::string>(path);
}

std::vector<std::byte> read_binary_file(const std::filesystem::path& path) {
  return read_whole<std::vector<std::byte>>(path);
}

void write_text_file(const std::filesystem::path& path, std::string_view text,
                     const CommitHook& hook) {
  AtomicFile file(path, hook);
  file.write(text);
  file.commit();
}

void make_directories(const std::filesystem::path& path, const CommitHook& hook) {
  struct stat status {};
  if (path.empty() || (stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode))) return;
  if (!path.has_filename()) return make_directories(path.parent_path(), hook);
  make_directories(path.parent_path(), hook);
  durable_step(hook, "make directory", path, [&] {
    if (mkdir(path.c_str(), 0777) == 0) return;
    const int error = errno;
    if (error != EEXIST) throw store_error("make directory", path, error);
    // Another rank may have been faster; a file of that name is an error.
    if (stat(path.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) {
      throw store_error("make directory", path, ENOTDIR);
    }
  });
  sync_directory(path.parent_path(), hook);
}

void remove_directory(const std::filesystem::path& path) noexcept {
  std::error_code error;
  do {
    std::filesystem::remove_all(path, error);
  } while (error == std::errc::no_such_file_or_directory);  // another's: one entry fewer each time
}

void require_writable(const std::filesystem::path& directory) {
  if (::access(directory.c_str(), W_OK | X_OK) == 0) return;
  throw store_error("create files in", directory, errno);
}

bool is_mount_point(const std::filesystem::path& directory) {
  struct stat own {};
  struct stat parent {};
  return stat(directory.c_str(), &own) == 0 && stat((directory / "..").c_str(), &parent) == 0 &&
         S_ISDIR(own.st_mode) && own.st_dev != parent.st_dev;
}

}  // namespace quern
