#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/core/error.h"
#include "kernels/cuda_backend.h"
#include "tests/support/mpi_test_main.h"
#include "tests/workers/test_session.h"

namespace quern::test {
namespace {

using testing::HasSubstr;

class GpuSessionTest : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "needs a GPU, found none";
  }
  static Session make(const DeviceRequest& request) {
    return make_session(&mpi_environment(), quiet_session().log, {.threads = 1, .device = request});
  }
};

TEST_F(GpuSessionTest, AutoTakesTheGpuInBf16) {
  const Session session = make({.kind = DeviceKind::automatic});
  EXPECT_THAT(session.backend->numerics(), HasSubstr("cuda"));
  EXPECT_EQ(session.backend->activation_dtype(), DType::bf16);
  EXPECT_EQ(session.rank(), mpi_environment().rank());
  EXPECT_EQ(session.ranks(), mpi_environment().size());
}

TEST_F(GpuSessionTest, TheCpuIsTakenWhereItIsAskedFor) {
  EXPECT_THAT(make({.kind = DeviceKind::cpu}).backend->numerics(), HasSubstr("cpu"));
}

TEST_F(GpuSessionTest, RankZeroAsksTheModelForAll) {
  int asked = 0;
  const Session session = make({.kind = DeviceKind::cuda, .model_dtype = [&] {
                                  ++asked;
                                  return DType::f16;
                                }});
  EXPECT_EQ(session.backend->activation_dtype(), DType::f16);
  EXPECT_EQ(asked, session.is_root() ? 1 : 0);
}

TEST_F(GpuSessionTest, WhatIsAskedForGoesBeforeTheModel) {
  const auto never = []() -> DType { throw InternalError("asked for the model's type"); };
  const Session session =
      make({.kind = DeviceKind::cuda, .activation = DType::f32, .model_dtype = never});
  EXPECT_EQ(session.backend->activation_dtype(), DType::f32);
}

TEST_F(GpuSessionTest, AModelThatCannotBeReadIsEveryRanksError) {
  const auto broken = []() -> DType { throw InputError("config.json: broken"); };
  try {
    make({.kind = DeviceKind::cuda, .model_dtype = broken});
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::data);
    EXPECT_THAT(error.what(), HasSubstr("config.json: broken"));
  }
}

/// By NCCL where every rank has a GPU, else through the host.
TEST_F(GpuSessionTest, CommunicatesFromTheMemoryOfTheGpu) {
  Session first = make({.kind = DeviceKind::cuda});
  Session session = std::move(first);
  Memory& memory = session.backend->memory();
  HostTensor host(DType::i64, {1000});
  std::ranges::fill(host.as<std::int64_t>(), session.rank() + 1);
  Tensor device = memory.to_device(host);
  const int last = session.ranks() - 1;
  session.communicator->reduce_sum(device.view(), last);
  session.communicator->broadcast(device.view(), last);
  const std::int64_t expected = std::int64_t{1} * session.ranks() * (session.ranks() + 1) / 2;
  EXPECT_THAT(memory.to_host(device.view()).as<std::int64_t>(), testing::Each(expected));
}

TEST(GpuSession, NeedsNoMpi) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "needs a GPU, found none";
  const Session session =
      make_session(nullptr, quiet_session().log,
                   {.threads = 1, .device = {.kind = DeviceKind::cuda, .activation = DType::bf16}});
  EXPECT_THAT(session.backend->numerics(), HasSubstr("cuda"));
  EXPECT_EQ(session.ranks(), 1);
}

}  // namespace
}  // namespace quern::test
