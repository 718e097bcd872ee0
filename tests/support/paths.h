#pragma once

#include <filesystem>
#include <string>

namespace quern::test {

/// The folder of reference models and values; empty where it is absent. Tests that need it start
/// with: if (shared_dir().empty()) GTEST_SKIP() << kNoShared;
std::filesystem::path shared_dir();
inline constexpr const char* kNoShared =
    "the reference folder is absent; configure with -DQUERN_SHARED_DIR=...";

/// The root of this repository.
std::filesystem::path source_dir();

/// A fresh directory, removed with the object.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;             // owns a directory
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;  // likewise
  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace quern::test
