#include "workers/host_memory.h"

#include <gtest/gtest.h>
#include <sys/sysinfo.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace quern::test {
namespace {

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

}  // namespace
}  // namespace quern::test
