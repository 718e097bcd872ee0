#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/core/error.h"
#include "kernels/cuda_backend.h"

namespace quern::test {
namespace {

TEST(NoCudaTest, HasNoDevices) {
  EXPECT_EQ(cuda_device_count(), 0);
}

TEST(NoCudaTest, SaysWhatIsMissing) {
  try {
    make_cuda_backend({});
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("built without CUDA"));
  }
  EXPECT_THROW(cuda_device_summary(0), ConfigError);
}

}  // namespace
}  // namespace quern::test
