#include "pipeline/prediction/disk_rates.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/support/paths.h"
#include "tests/workers/test_session.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;

class DiskRates : public testing::Test {
 protected:
  void add_file(const char* name, std::size_t bytes) const {
    std::ofstream(folder_.path() / name, std::ios::binary) << std::string(bytes, 'w');
  }

  TemporaryDirectory folder_;
  Session session_ = quiet_session();
};

TEST_F(DiskRates, WritingLeavesNothing) {
  EXPECT_GT(write_rate(session_, folder_.path(), 5'000'000), 0);
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

TEST_F(DiskRates, ReadingCountsFilesOfWeights) {
  add_file("config.json", 100);
  EXPECT_EQ(read_rate(session_, folder_.path()).bytes, 0U);
  EXPECT_EQ(read_rate(session_, folder_.path()).seconds(), 0);
  add_file("model-1.safetensors", 9U << 20);
  add_file("model-2.safetensors", 100);
  const StoredWeights weights = read_rate(session_, folder_.path());
  EXPECT_EQ(weights.bytes, (9U << 20) + 100U);
  EXPECT_GT(weights.bytes_per_second, 0);
  EXPECT_DOUBLE_EQ(weights.seconds() * weights.bytes_per_second,
                   static_cast<double>(weights.bytes));
}

}  // namespace
}  // namespace quern::test
