#include "pipeline/prediction/kept_inputs.h"

#include <gtest/gtest.h>

#include <limits>

namespace quern::test {
namespace {

/// 100 beside the activations, 3 micro-batches of 10 that keep 40 each.
DeviceNeeds needs() {
  return {.weight_bytes = 60,
          .work_bytes = 40,
          .state_bytes = 10,
          .layer_input_bytes = 40,
          .rounds = 3};
}

TEST(KeptInputs, LieInHostMemoryWhereThereIsNoDevice) {
  const KeptInputs kept = kept_inputs(needs(), std::numeric_limits<std::uint64_t>::max(), 1000);
  EXPECT_EQ(kept.device_bytes, 0U);
  EXPECT_EQ(kept.host_bytes, 120U);
  EXPECT_EQ(kept.scratch_bytes, 0U);
}

TEST(KeptInputs, SpillFromTheDeviceToTheHostToAFile) {
  EXPECT_EQ(kept_inputs(needs(), 1000, 50).device_bytes, 120U);
  const KeptInputs kept = kept_inputs(needs(), 190, 50);
  EXPECT_EQ(kept.device_bytes, 60U);
  EXPECT_EQ(kept.host_bytes, 50U);
  EXPECT_EQ(kept.scratch_bytes, 10U);
}

}  // namespace
}  // namespace quern::test
