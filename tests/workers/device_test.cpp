#include "workers/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "kernels/core/error.h"
#include "kernels/cuda_backend.h"
#include "tests/support/mpi_test_main.h"
#include "tests/workers/test_session.h"

namespace quern::test {
namespace {

using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(GpuOfRank, OneEachAndRoundRobin) {
  std::vector<std::optional<int>> gpus;
  for (int rank = 0; rank < 5; ++rank) {
    gpus.push_back(gpu_of_rank(DeviceKind::automatic, 3, rank));
    EXPECT_EQ(gpu_of_rank(DeviceKind::cuda, 3, rank), gpus.back());
  }
  EXPECT_THAT(gpus, testing::ElementsAre(0, 1, 2, 0, 1));
}

TEST(GpuOfRank, TheProcessorsWhereThereIsNoneOrNotWanted) {
  EXPECT_EQ(gpu_of_rank(DeviceKind::automatic, 0, 1), std::nullopt);
  EXPECT_EQ(gpu_of_rank(DeviceKind::cpu, 0, 0), std::nullopt);
  EXPECT_EQ(gpu_of_rank(DeviceKind::cpu, 8, 3), std::nullopt);
}

TEST(GpuOfRank, OneThatMustBeThereIsTheBackendsToRefuse) {
  EXPECT_EQ(gpu_of_rank(DeviceKind::cuda, 0, 3), 0);
}

DeviceMap map_of(const std::vector<std::string>& places) {
  return map_devices(places);
}

TEST(MapDevices, CountsWhoSharesWhat) {
  const DeviceMap own = map_of({"0/a", "0/b", "2/a", "2/b"});
  EXPECT_EQ(own.gpus, 4);
  EXPECT_FALSE(own.shares_gpus());
  const DeviceMap shared = map_of({"0/a", "0/b", "0/a"});
  EXPECT_EQ(shared.ranks, 3);
  EXPECT_EQ(shared.gpus, 2);
  EXPECT_TRUE(shared.shares_gpus());
  const DeviceMap none = map_of({"", ""});
  EXPECT_EQ(none.gpus, 0);
  EXPECT_FALSE(none.shares_gpus());
}

TEST(MapDevices, AllRanksOrNone) {
  EXPECT_THAT(
      [] {
        map_of({"0/a", "1/a", "", "1/b"});
      },
      ThrowsMessage<ConfigError>(
          AllOf(HasSubstr("rank 2 has no GPU, but 3 of 4"), HasSubstr("device: cpu"))));
}

TEST(Numerics, AreTheSameOnEveryRank) {
  const std::vector<std::string> same{"cuda (H200)", "cuda (H200)"};
  EXPECT_NO_THROW(check_same_numerics(same));
  const std::vector<std::string> mixed{"cuda (H200)", "cuda (H200)", "cuda (A100)"};
  EXPECT_THAT([&] { check_same_numerics(mixed); },
              ThrowsMessage<ConfigError>(
                  AllOf(HasSubstr("rank 2 with cuda (A100)"), HasSubstr("ignore_numerics"))));
}

SessionOptions options_of(const DeviceRequest& request) {
  return {.threads = 1, .device = request};
}

Session session_of(const DeviceRequest& request) {
  return make_session(&mpi_environment(), quiet_session().log, options_of(request));
}

/// Of any rank: rank 0 says what is wrong, the others that rank 0 failed.
auto refuses(const std::string& part) {
  return ThrowsMessage<Error>(HasSubstr(part));
}

TEST(SessionDevice, AutoIsTheCpuWhereThereIsNoGpu) {
  if (cuda_device_count() > 0) GTEST_SKIP() << "needs a machine without a GPU";
  const Session session = session_of({.kind = DeviceKind::automatic});
  EXPECT_EQ(session.backend->activation_dtype(), DType::f32);
  EXPECT_THAT(session.backend->numerics(), HasSubstr("cpu"));
}

TEST(SessionDevice, CudaWithoutAGpuIsAnErrorOfTheRunFile) {
  if (cuda_device_count() > 0) GTEST_SKIP() << "needs a machine without a GPU";
  EXPECT_THAT([] { session_of({.kind = DeviceKind::cuda}); }, refuses("device: cpu"));
  try {
    session_of({.kind = DeviceKind::cuda});
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::usage);
    EXPECT_THAT(error.what(), AnyOf(HasSubstr("built without CUDA"), HasSubstr("no CUDA device")));
  }
}

TEST(SessionDevice, TheCpuRefusesTypesOf16Bits) {
  EXPECT_THAT([] { session_of({.kind = DeviceKind::cpu, .activation = DType::bf16}); },
              refuses("the CPU computes in float32 or float64"));
  for (const DType activation : {DType::f32, DType::f64}) {
    const Session session = session_of({.kind = DeviceKind::cpu, .activation = activation});
    EXPECT_EQ(session.backend->activation_dtype(), activation);
  }
}

TEST(SessionDevice, TheModelIsNotAskedWithoutAGpu) {
  const auto never = []() -> DType { throw InternalError("asked for the model's type"); };
  EXPECT_NO_THROW(session_of({.kind = DeviceKind::cpu, .model_dtype = never}));
}

}  // namespace
}  // namespace quern::test
