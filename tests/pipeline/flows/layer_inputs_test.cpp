#include "pipeline/flows/layer_inputs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/core/error.h"
#include "tests/support/paths.h"
#include "tests/workers/test_session.h"

namespace quern::test {
namespace {

constexpr std::int64_t kLayers = 3;
constexpr std::int64_t kRounds = 2;
constexpr std::uint64_t kBytes = 5 * 7 * 4;  ///< of one residual

HostTensor residual_of(std::int64_t layer, std::int64_t round) {
  HostTensor tensor(DType::f32, {5, 7});
  float value = static_cast<float>(100 * layer + 10 * round) + 0.25F;
  for (float& element : tensor.as<float>()) element = value *= 1.01F;
  return tensor;
}

class LayerInputsTest : public testing::Test {
 protected:
  LayerInputs keep_all(const LayerInputBudget& budget) {
    LayerInputs inputs(session_, directory_.path(), budget);
    Memory& memory = session_.backend->memory();
    for (std::int64_t layer = 0; layer < kLayers; ++layer) {
      for (std::int64_t round = 0; round < kRounds; ++round) {
        const Tensor device = memory.to_device(residual_of(layer, round));
        inputs.keep(layer, round, device.view());
      }
    }
    return inputs;
  }

  void expect_layer(const LayerInputs& inputs, std::int64_t layer) {
    for (std::int64_t round = 0; round < kRounds; ++round) {
      const Tensor found = inputs.fetch(layer, round);
      const HostTensor expected = residual_of(layer, round);
      EXPECT_EQ(found.dtype(), expected.dtype);
      EXPECT_EQ(found.shape(), expected.shape);
      EXPECT_EQ(session_.backend->memory().to_host(found.view()).bytes, expected.bytes)
          << layer << ", " << round;
    }
  }

  TemporaryDirectory directory_;
  Session session_ = quiet_session();
};

TEST_F(LayerInputsTest, ComeBackAsTheyWereWhereverTheyAreKept) {
  const std::uint64_t all = kLayers * kRounds * kBytes;
  // Nothing, one byte less than one residual, one, some, all but one byte, all, and plenty.
  for (const std::uint64_t budget : {std::uint64_t{1}, kBytes - 1, kBytes, 3 * kBytes + 5, all - 1,
                                     all, std::uint64_t{1} << 40}) {
    const LayerInputs inputs = keep_all({.host_bytes = budget});
    const std::uint64_t held = std::min(budget, all) / kBytes * kBytes;
    EXPECT_EQ(inputs.host_bytes(), held) << budget;
    EXPECT_EQ(inputs.scratch_bytes(), all - held) << budget;
    for (std::int64_t layer = kLayers; layer-- > 0;) expect_layer(inputs, layer);
    expect_layer(inputs, 2);  // once more
    EXPECT_TRUE(std::filesystem::is_empty(directory_.path())) << "a file without a name";
  }
}

TEST_F(LayerInputsTest, GoToTheDeviceFirstThenToTheHostThenToTheFile) {
  const Memory& memory = session_.backend->memory();
  const std::size_t before = memory.used_bytes();
  LayerInputs inputs = keep_all({.device_bytes = 3 * kBytes - 1, .host_bytes = 2 * kBytes + 7});
  EXPECT_EQ(inputs.device_bytes(), 2 * kBytes) << "layer 0";
  EXPECT_EQ(inputs.host_bytes(), 2 * kBytes) << "layer 1";
  EXPECT_EQ(inputs.scratch_bytes(), 2 * kBytes) << "layer 2";
  EXPECT_EQ(memory.used_bytes(), before + 2 * kBytes);
  for (std::int64_t layer = kLayers; layer-- > 0;) expect_layer(inputs, layer);
  expect_layer(inputs, 0);  // what was fetched is a copy
  inputs.forget(0);
  EXPECT_EQ(inputs.device_bytes(), 0U);
  EXPECT_EQ(memory.used_bytes(), before);
  const Tensor device = session_.backend->memory().to_device(residual_of(0, 1));
  inputs.keep(0, 1, device.view());
  EXPECT_EQ(inputs.device_bytes(), kBytes);
}

TEST_F(LayerInputsTest, WhatIsOnTheDeviceDoesNotFollowTheResidual) {
  LayerInputs inputs(session_, directory_.path(), {.device_bytes = kBytes});
  Memory& memory = session_.backend->memory();
  Tensor residual = memory.to_device(residual_of(1, 1));
  inputs.keep(1, 1, residual.view());
  memory.clear(residual.view());
  EXPECT_EQ(memory.to_host(inputs.fetch(1, 1).view()).bytes, residual_of(1, 1).bytes);
}

TEST_F(LayerInputsTest, WithoutABudgetHalfOfWhatIsFreeIsTaken) {
  const LayerInputs inputs = keep_all({});
  EXPECT_EQ(inputs.host_bytes(), kLayers * kRounds * kBytes);
  EXPECT_EQ(inputs.scratch_bytes(), 0U);
  expect_layer(inputs, 1);
}

TEST_F(LayerInputsTest, AForgottenLayerMakesRoomInMemory) {
  LayerInputs inputs =
      keep_all({.host_bytes = 4 * kBytes});  // layers 0 and 1; layer 2 is in the file
  EXPECT_EQ(inputs.host_bytes(), 4 * kBytes);
  EXPECT_EQ(inputs.scratch_bytes(), 2 * kBytes);
  inputs.forget(2);
  EXPECT_EQ(inputs.host_bytes(), 4 * kBytes);
  EXPECT_THROW(inputs.fetch(2, 0), InternalError);
  inputs.forget(1);
  EXPECT_EQ(inputs.host_bytes(), 2 * kBytes);
  inputs.forget(1);
  inputs.forget(77);
  EXPECT_EQ(inputs.host_bytes(), 2 * kBytes);
  expect_layer(inputs, 0);
  const Tensor device = session_.backend->memory().to_device(residual_of(1, 0));
  inputs.keep(1, 0, device.view());
  EXPECT_EQ(inputs.host_bytes(), 3 * kBytes);
  EXPECT_EQ(inputs.scratch_bytes(), 2 * kBytes);
}

TEST_F(LayerInputsTest, ADirectoryThatIsNotThereMattersOnlyWhenItIsNeeded) {
  LayerInputs inputs(session_, directory_.path() / "absent", {.host_bytes = 2 * kBytes});
  const Tensor device = session_.backend->memory().to_device(residual_of(0, 0));
  inputs.keep(0, 0, device.view());
  inputs.keep(0, 1, device.view());
  EXPECT_THROW(inputs.keep(0, 2, device.view()), StoreError);
}

}  // namespace
}  // namespace quern::test
