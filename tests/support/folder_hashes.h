#pragma once

#include <filesystem>
#include <map>
#include <string>

namespace quern::test {

/// SHA-256 of every file below a folder by its relative path: equal maps are equal folders, and a
/// failed comparison prints which file differs. Empty if there is no such folder.
std::map<std::string, std::string> folder_hashes(const std::filesystem::path& folder);

}  // namespace quern::test
