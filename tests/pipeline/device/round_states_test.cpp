#include "pipeline/device/round_states.h"

#include <gtest/gtest.h>

#include "kernels/core/error.h"

namespace quern::test {
namespace {

constexpr std::int64_t kRounds = 4;
constexpr std::size_t kResidualBytes = 3 * 5 * 4;

HostTensor values(const Shape& shape, float first) {
  HostTensor tensor(DType::f32, shape);
  for (float& value : tensor.as<float>()) value = first += 0.5F;
  return tensor;
}

class RoundStatesTest : public testing::Test {
 protected:
  Memory& memory() { return backend_->memory(); }

  /// A residual [3, 5] and `inputs` inputs [3, 7], [3, 8] ... with values of their own.
  BlockState state(float first, int inputs) {
    BlockState state;
    state.residual = memory().to_device(values({3, 5}, first));
    for (int i = 0; i < inputs; ++i) {
      state.inputs.push_back(
          memory().to_device(values({3, 7 + i}, first + 1000.0F * static_cast<float>(i + 1))));
    }
    return state;
  }

  void expect_state(const BlockState& found, float first, int inputs) {
    EXPECT_EQ(memory().to_host(found.residual.view()).bytes, values({3, 5}, first).bytes);
    ASSERT_EQ(std::ssize(found.inputs), inputs);
    for (int i = 0; i < inputs; ++i) {
      const Tensor& input = found.inputs[static_cast<std::size_t>(i)];
      EXPECT_EQ(input.shape(), Shape({3, 7 + i}));
      EXPECT_EQ(memory().to_host(input.view()).bytes,
                values({3, 7 + i}, first + 1000.0F * static_cast<float>(i + 1)).bytes);
    }
  }

  RoundStates filled(std::int64_t on_device, int inputs) {
    RoundStates states(memory(), {on_device, 16});  // less than any state holds
    for (std::int64_t round = 0; round < kRounds; ++round) {
      states.put(round, state(100.0F * static_cast<float>(round), inputs));
    }
    return states;
  }

  std::unique_ptr<Backend> backend_ = make_cpu_backend(1);
};

TEST_F(RoundStatesTest, ComeBackAsTheyWereWhereverTheyLie) {
  for (const std::int64_t on_device : {0, 1, 3, 4, 9}) {
    for (const int inputs : {0, 1, 2}) {
      RoundStates states = filled(on_device, inputs);
      EXPECT_EQ(states.rounds(), kRounds);
      for (const std::int64_t round : {3, 0, 1, 2, 2}) {
        expect_state(states.at(round), 100.0F * static_cast<float>(round), inputs);
        states.unchanged(round);
      }
    }
  }
}

TEST_F(RoundStatesTest, OnlyTheirShareTakesDeviceMemory) {
  const std::size_t before = memory().used_bytes();
  for (const std::int64_t on_device : {0, 1, 3, 4}) {
    RoundStates states = filled(on_device, 0);
    const auto share = static_cast<std::size_t>(on_device) * kResidualBytes;
    EXPECT_EQ(memory().used_bytes(), before + share);
    states.at(3);
    EXPECT_EQ(memory().used_bytes(), before + (on_device == 4 ? share : share + kResidualBytes));
    states.changed(3);
    EXPECT_EQ(memory().used_bytes(), before + share);
    states.clear();
    EXPECT_EQ(memory().used_bytes(), before);
    EXPECT_TRUE(states.empty());
  }
}

TEST_F(RoundStatesTest, ChangesAreKeptAndAStateMayGrowAndShrink) {
  for (const std::int64_t on_device : {0, 2, 4}) {
    RoundStates states = filled(on_device, 1);
    for (const int inputs : {2, 0, 1}) {
      for (std::int64_t round = 0; round < kRounds; ++round) {
        states.at(round) = state(7.0F + static_cast<float>(10 * inputs + round), inputs);
        states.changed(round);
      }
      for (std::int64_t round = 0; round < kRounds; ++round) {
        expect_state(states.at(round), 7.0F + static_cast<float>(10 * inputs + round), inputs);
        states.unchanged(round);
      }
    }
  }
}

TEST_F(RoundStatesTest, WithoutAChangeAStateOnTheHostIsAsBefore) {
  RoundStates states = filled(1, 1);
  memory().clear(states.at(2).residual.view());
  states.unchanged(2);
  expect_state(states.at(2), 200.0F, 1);
}

TEST_F(RoundStatesTest, GiveTheirResidualWithoutTheDevice) {
  RoundStates states = filled(2, 1);
  const std::size_t used = memory().used_bytes();
  for (std::int64_t round = 0; round < kRounds; ++round) {
    const HostTensor residual = states.residual_on_host(round);
    EXPECT_EQ(residual.shape, Shape({3, 5}));
    EXPECT_EQ(residual.bytes, values({3, 5}, 100.0F * static_cast<float>(round)).bytes);
  }
  EXPECT_EQ(memory().used_bytes(), used);
}

TEST_F(RoundStatesTest, ArePutInOrderAndReplacedAndExchanged) {
  RoundStates states = filled(1, 1);
  EXPECT_THROW(states.put(5, state(0.0F, 0)), InternalError);
  EXPECT_THROW(states.at(4), InternalError);
  RoundStates others(memory(), {1, 0});
  others.put(0, state(1.0F, 0));
  others.put(1, state(2.0F, 2));
  others.put(1, state(3.0F, 1));
  others.swap(states);
  EXPECT_EQ(states.rounds(), 2);
  EXPECT_EQ(others.rounds(), kRounds);
  expect_state(states.at(1), 3.0F, 1);
  expect_state(others.at(3), 300.0F, 1);
  states.clear();
  EXPECT_THROW(states.at(0), InternalError);
  states.put(0, state(4.0F, 1));
  expect_state(states.at(0), 4.0F, 1);
}

}  // namespace
}  // namespace quern::test
