#include "tests/support/paths.h"

#include <cstdlib>
#include <stdexcept>

namespace quern::test {

std::filesystem::path shared_dir() {
  const std::filesystem::path path = QUERN_SHARED_DIR;
  return std::filesystem::exists(path / "golden") ? path : std::filesystem::path();
}

std::filesystem::path source_dir() {
  return QUERN_SOURCE_DIR;
}

TemporaryDirectory::TemporaryDirectory() {
  std::string pattern = (std::filesystem::temp_directory_path() / "quern-test-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  path_ = pattern;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace quern::test
