#include "workers/host_memory.h"

#include <malloc.h>
#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <string>

namespace quern {
namespace {

std::optional<std::uint64_t> number_in(const char* path) {
  std::ifstream file(path);
  std::uint64_t value = 0;
  return file >> value ? std::optional(value) : std::nullopt;  // "max" is no number
}

std::uint64_t kernel_available() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("MemAvailable:")) return std::stoull(line.substr(13)) * 1024;
  }
  return 0;
}

}  // namespace

std::uint64_t available_host_bytes() {
  const std::uint64_t available = kernel_available();
  const auto limit = number_in("/sys/fs/cgroup/memory.max");
  const auto used = number_in("/sys/fs/cgroup/memory.current");
  if (!limit || !used) return available;
  const std::uint64_t left = *limit > *used ? *limit - *used : 0;
  return available == 0 ? left : std::min(available, left);
}

std::uint64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

void give_back_large_blocks() {
  mallopt(M_MMAP_THRESHOLD, 4 << 20);
}

void restart_peak_resident() {
  malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5\n";  // proc(5): the peak becomes what is held now
}

std::uint64_t host_bytes_of_rank(int ranks_on_host) {
  return available_host_bytes() / static_cast<std::uint64_t>(ranks_on_host);
}

}  // namespace quern
