#include "workers/host_memory.h"

#include <malloc.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>

namespace quern {
namespace {

std::optional<std::uint64_t> number_in(const char* path) {
  std::ifstream file(path);
  std::uint64_t value = 0;
  return file >> value ? std::optional(value) : std::nullopt;  // "max" is no number
}

/// Bytes of a line "KEY: COUNT kB"; 0 if there is none.
std::uint64_t kilobytes_in(const char* path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key)) return std::stoull(line.substr(key.size())) * 1024;
  }
  return 0;
}

}  // namespace

std::uint64_t available_host_bytes() {
  const std::uint64_t available = kilobytes_in("/proc/meminfo", "MemAvailable:");
  const auto limit = number_in("/sys/fs/cgroup/memory.max");
  const auto used = number_in("/sys/fs/cgroup/memory.current");
  if (!limit || !used) return available;
  const std::uint64_t left = *limit > *used ? *limit - *used : 0;
  return available == 0 ? left : std::min(available, left);
}

std::uint64_t peak_resident_bytes() {
  return kilobytes_in("/proc/self/status", "VmHWM:");
}

void restart_peak_resident() {
  malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5\n";  // proc(5): the peak becomes what is held now
}

std::uint64_t host_bytes_of_rank(int ranks_on_host) {
  return available_host_bytes() / static_cast<std::uint64_t>(ranks_on_host);
}

}  // namespace quern
