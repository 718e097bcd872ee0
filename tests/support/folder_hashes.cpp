#include "tests/support/folder_hashes.h"

#include "workers/files/hash.h"

namespace quern::test {

namespace fs = std::filesystem;

std::map<std::string, std::string> folder_hashes(const fs::path& folder) {
  std::map<std::string, std::string> hashes;
  if (!fs::is_directory(folder)) return hashes;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    const std::string name = entry.path().lexically_relative(folder).generic_string();
    hashes[name] = entry.is_directory() ? "directory" : sha256_file(entry.path());
  }
  return hashes;
}

}  // namespace quern::test
