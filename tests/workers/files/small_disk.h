#pragma once

#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

namespace quern::test {

inline constexpr const char* kNoMounts = "cannot mount";

/// For a forked child: mounts an empty file system of `bytes` on a directory, visible to this
/// process alone and gone with it. False where the system does not allow it.
inline bool mount_small_disk(const std::filesystem::path& directory, const char* size) {
  if (unshare(CLONE_NEWNS) != 0) return false;
  if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return false;
  return mount("none", directory.c_str(), "tmpfs", 0, size) == 0;
}

inline bool make_read_only(const std::filesystem::path& directory) {
  return mount("none", directory.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) == 0;
}

/// For a forked child: gives up root's right to write anywhere.
inline bool become_nobody() {
  return geteuid() != 0 || (setgid(65534) == 0 && setuid(65534) == 0);
}

}  // namespace quern::test
