#include "workers/host_memory.h"

#include <gtest/gtest.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <vector>

namespace quern::test {
namespace {

std::uint64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::uint64_t all = 0;
  std::uint64_t resident = 0;
  file >> all >> resident;
  return resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

TEST(HostMemory, WhatIsAvailableIsPartOfWhatThereIs) {
  struct sysinfo host {};
  ASSERT_EQ(sysinfo(&host), 0);
  const std::uint64_t all = std::uint64_t{host.totalram} * host.mem_unit;
  const std::uint64_t available = available_host_bytes();
  EXPECT_GT(available, std::uint64_t{1} << 20);
  EXPECT_LE(available, all);
}

/// Other processes come and go, so only a large piece shows: an eighth of what is available, at
/// most 512 MB, of which half must be missed while it is held.
TEST(HostMemory, FallsWhileMemoryIsHeld) {
  const std::uint64_t before = available_host_bytes();
  const std::uint64_t piece = std::min<std::uint64_t>(before / 8, std::uint64_t{512} << 20);
  bool fell = false;
  for (int attempt = 0; attempt < 20 && !fell; ++attempt) {
    const std::uint64_t free_bytes = available_host_bytes();
    std::vector<char> held(piece);
    std::memset(held.data(), attempt + 1, held.size());
    fell = available_host_bytes() + piece / 2 < free_bytes;
  }
  EXPECT_TRUE(fell);
}

TEST(HostMemory, PeakIsThatOfThisProcessSinceItWasRestarted) {
  constexpr std::uint64_t kPiece = std::uint64_t{64} << 20;
  const auto hold = [](std::uint64_t bytes) {
    std::vector<char> held(bytes);
    std::memset(held.data(), 1, held.size());
    return peak_resident_bytes();
  };
  restart_peak_resident();
  const std::uint64_t start = peak_resident_bytes();
  EXPECT_GE(hold(4 * kPiece), start + 4 * kPiece - (1 << 20));
  EXPECT_GE(peak_resident_bytes(), start + 4 * kPiece - (1 << 20)) << "after it was given back";
  restart_peak_resident();
  EXPECT_LT(hold(kPiece), start + 2 * kPiece);
}

TEST(HostMemory, LargeBlocksGoBackWhenTheyAreFreed) {
  constexpr std::size_t kBlock = std::size_t{24} << 20;
  const auto fill = [] {
    std::vector<char> block(kBlock);
    std::memset(block.data(), 1, kBlock);
    return std::vector<char>(100'000, 1);  // above the block, were that in the heap
  };
  give_back_large_blocks();
  std::vector<std::vector<char>> kept;
  const std::uint64_t before = resident_bytes();
  for (int i = 0; i < 3; ++i) kept.push_back(fill());
  EXPECT_LT(resident_bytes(), before + kBlock / 2);
}

}  // namespace
}  // namespace quern::test
