#include "workers/comm/nccl_communicator.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "kernels/core/error.h"
#include "kernels/cuda_backend.h"
#include "tests/support/mpi_test_main.h"
#include "tests/workers/comm/communicator_contract.h"
#include "workers/comm/mpi_communicator.h"

namespace quern::test {
namespace {

using namespace std::chrono_literals;
using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr std::chrono::seconds kDeadline{120};

std::string without_a_gpu() {
  return cuda_device_count() > 0 ? "" : "needs a GPU, found none";
}

std::string without_own_gpus() {
  const int ranks = mpi_environment().ranks_on_host();
  if (cuda_device_count() < ranks) {
    return fmt::format("needs {} GPUs, found {}", ranks, cuda_device_count());
  }
  return nccl_library_version().empty() ? "this build has no NCCL" : "";
}

std::unique_ptr<Backend> backend_of_rank() {
  return make_cuda_backend({.device = mpi_environment().local_rank() % cuda_device_count()});
}

class ByNccl final : public Wiring {
 public:
  Memory& memory() override { return backend_->memory(); }
  std::unique_ptr<Communicator> connect() override {
    return mpi_environment().make_nccl_communicator(memory(), kDeadline);
  }

 private:
  std::unique_ptr<Backend> backend_ = backend_of_rank();
};

/// What ranks that share a GPU do.
class ThroughTheHost final : public Wiring {
 public:
  Memory& memory() override { return backend_->memory(); }
  std::unique_ptr<Communicator> connect() override {
    return mpi_environment().make_communicator(memory(), kDeadline);
  }

 private:
  std::unique_ptr<Backend> backend_ = backend_of_rank();
};

INSTANTIATE_TEST_SUITE_P(
    Gpu, CommunicatorContract,
    testing::Values(Setting{"nccl", true, [] { return std::make_unique<ByNccl>(); },
                            without_own_gpus},
                    Setting{"mpi_staged", true, [] { return std::make_unique<ThroughTheHost>(); },
                            without_a_gpu}),
    name_of);

class NcclTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string obstacle = without_own_gpus(); !obstacle.empty()) {
      GTEST_SKIP() << obstacle;
    }
    backend_ = backend_of_rank();
  }
  Memory& memory() { return backend_->memory(); }
  static MpiEnvironment& mpi() { return mpi_environment(); }

 private:
  std::unique_ptr<Backend> backend_;
};

TEST_F(NcclTest, MovesMoreThanTwoGibibytes) {
  const std::int64_t elems = (std::int64_t{1} << 28) + 5;
  const auto ranks = mpi().make_nccl_communicator(memory(), kDeadline);
  Tensor sums = memory().allocate(DType::i64, {elems});
  memory().clear(sums.view());
  HostTensor ends(DType::i64, {3});
  std::ranges::fill(ends.as<std::int64_t>(), mpi().rank() + 1);
  const TensorView last = sums.view().rows(elems - 3, 3);
  memory().upload(ends.bytes, last);
  ranks->reduce_sum(sums.view(), 0);
  ranks->broadcast(sums.view(), 0);
  const std::int64_t expected = std::int64_t{1} * mpi().size() * (mpi().size() + 1) / 2;
  EXPECT_THAT(memory().to_host(last).as<std::int64_t>(), testing::Each(expected));
  EXPECT_THAT(memory().to_host(sums.view().rows(0, 3)).as<std::int64_t>(), testing::Each(0));
}

TEST_F(NcclTest, FollowsAndPrecedesWhatTheBackendDoes) {
  const auto ranks = mpi().make_nccl_communicator(memory(), kDeadline);
  HostTensor host(DType::i64, {1 << 20});
  Tensor first = memory().allocate(DType::i64, host.shape);
  Tensor second = memory().allocate(DType::i64, host.shape);
  for (int round = 1; round <= 20; ++round) {
    std::ranges::fill(host.as<std::int64_t>(), round);
    memory().upload(host.bytes, first.view());
    memory().copy(first.view(), second.view());
    ranks->reduce_sum(second.view(), 0);
    ranks->broadcast(second.view(), 0);
    memory().copy(second.view(), first.view());
    const HostTensor result = memory().to_host(first.view());
    ASSERT_THAT(result.as<std::int64_t>().front(), std::int64_t{round} * mpi().size());
    ASSERT_THAT(result.as<std::int64_t>().back(), std::int64_t{round} * mpi().size());
  }
}

TEST_F(NcclTest, AnAbsentRankIsAnErrorThatNamesTheOperation) {
  if (mpi().size() == 1) GTEST_SKIP() << "needs two ranks";
  const auto healthy = mpi().make_nccl_communicator(memory(), kDeadline);
  {
    const auto ranks = mpi().make_nccl_communicator(memory(), 4s);
    Tensor tensor = memory().to_device(HostTensor(DType::i64, {3}));
    if (mpi().rank() != 1) {
      EXPECT_THAT([&] { ranks->reduce_sum(tensor.view(), 0); },
                  ThrowsMessage<CommunicationError>(
                      AllOf(HasSubstr("reduce_sum of 24 bytes"), HasSubstr("not every rank"))));
      EXPECT_THAT([&] { ranks->broadcast(tensor.view(), 0); },
                  ThrowsMessage<CommunicationError>(HasSubstr("an earlier collective failed")));
    }
    healthy->barrier();
  }
  Tensor ones = memory().to_device(HostTensor(DType::i64, {1}));
  healthy->broadcast(ones.view(), 0);
}

/// The other rank joins, and then does not do its part: what a rank that dies in the middle does.
TEST_F(NcclTest, ARankThatIsLostInTheMiddleIsAnErrorAndFreesTheGpu) {
  if (mpi().size() == 1) GTEST_SKIP() << "needs two ranks";
  auto host = make_mpi_communicator(memory(), 4s, MpiEnvironment::kPieceBytes);
  HostCommunicator& meeting = *host;
  const auto ranks = make_nccl_communicator(std::move(host), memory(), 4s);
  Tensor tensor = memory().allocate(DType::i64, {1 << 22});
  if (mpi().rank() == 1) {
    meeting.with_all_ranks({Collective::reduce_sum, tensor.view().bytes(), 0}, [] {});
    std::this_thread::sleep_for(6s);
    return;
  }
  EXPECT_THAT([&] { ranks->reduce_sum(tensor.view(), 0); },
              ThrowsMessage<CommunicationError>(
                  AllOf(HasSubstr("reduce_sum of 33554432 bytes"), HasSubstr("within 4 s"))));
  EXPECT_THAT([&] { ranks->barrier(); },
              ThrowsMessage<CommunicationError>(HasSubstr("an earlier collective failed")));
  memory().synchronize();
}

}  // namespace
}  // namespace quern::test
