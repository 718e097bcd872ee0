#include "pipeline/stages/calibrate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/core/error.h"
#include "tests/support/mpi_test_main.h"
#include "tests/workers/test_session.h"

namespace quern::test {
namespace {

constexpr std::int64_t kFeatures = 24;
constexpr std::int64_t kTokens = 40;
constexpr std::int64_t kBatches = 7;

/// Micro-batches of normal values, each times its scale; the same on every rank.
std::vector<HostTensor> batches_of(const std::vector<float>& scales) {
  std::mt19937 engine(11);
  std::normal_distribution<float> normal;
  std::vector<HostTensor> batches;
  for (const float scale : scales) {
    batches.emplace_back(DType::f32, Shape{kTokens, kFeatures});
    for (float& value : batches.back().as<float>()) value = scale * normal(engine);
  }
  return batches;
}

struct Measured {
  HostTensor sums;
  HostTensor exponents;
  int widened = 0;
};

/// The loop of the pipeline over the micro-batches of this rank; sums are complete on `owner`.
Measured measure(Session& session, const std::vector<HostTensor>& batches, int owner) {
  const auto count = static_cast<std::int64_t>(batches.size());
  Memory& memory = session.backend->memory();
  Calibrate calibrate(session, {kFeatures}, count * kTokens);
  Measured result;
  while (true) {
    for (std::int64_t round = 0; round * session.ranks() < count; ++round) {
      const std::int64_t m = round * session.ranks() + session.rank();
      Tensor x;
      if (m < count) x = memory.to_device(batches[static_cast<std::size_t>(m)]);
      if (round == 0) calibrate.choose_exponents(0, m < count ? &x : nullptr);
      if (m < count) calibrate.add(0, x);
      memory.synchronize();
    }
    if (!calibrate.overflowed()) break;
    calibrate.widen();
    ++result.widened;
  }
  calibrate.reduce(std::span(&owner, 1));
  const GramView view = calibrate.gram(0).view();
  result.sums = memory.to_host(view.sums);
  result.exponents = memory.to_host(view.exponents);
  return result;
}

/// Every entry within 2^-20 of sqrt(H_ii H_jj) of the sum in float64.
void expect_gram(const Measured& measured, const std::vector<HostTensor>& batches) {
  const auto k = static_cast<std::size_t>(kFeatures);
  std::vector<double> expected(k * k);
  for (const HostTensor& batch : batches) {
    const auto x = batch.as<float>();
    for (std::size_t t = 0; t < static_cast<std::size_t>(kTokens); ++t) {
      for (std::size_t i = 0; i < k; ++i) {
        for (std::size_t j = i; j < k; ++j) {
          expected[i * k + j] +=
              static_cast<double>(x[t * k + i]) * static_cast<double>(x[t * k + j]);
        }
      }
    }
  }
  const auto exponents = measured.exponents.as<std::int32_t>();
  for (std::size_t i = 0; i < k; ++i) {
    for (std::size_t j = i; j < k; ++j) {
      const auto sum = static_cast<double>(measured.sums.as<std::int64_t>()[i * k + j]);
      const double bound = std::sqrt(expected[i * k + i] * expected[j * k + j]);
      EXPECT_NEAR(std::ldexp(sum, -exponents[i] - exponents[j]), expected[i * k + j],
                  0x1p-20 * bound)
          << i << ", " << j;
    }
  }
}

/// On the job's ranks and on one: the same bits, and right.
void expect_same_on_any_ranks(const std::vector<float>& scales, int widened) {
  Session session = quiet_session(&mpi_environment());
  Session alone = quiet_session();
  const std::vector<HostTensor> batches = batches_of(scales);
  const int owner = session.ranks() - 1;
  const Measured together = measure(session, batches, owner);
  const Measured single = measure(alone, batches, 0);
  EXPECT_EQ(together.widened, widened);
  EXPECT_EQ(single.widened, widened);
  EXPECT_EQ(together.exponents.bytes, single.exponents.bytes);
  expect_gram(single, batches);
  if (session.rank() == owner) {
    EXPECT_EQ(together.sums.bytes, single.sums.bytes);
  }
}

TEST(Calibrate, SumsAreTheSameForAnyNumberOfRanks) {
  expect_same_on_any_ranks(std::vector<float>(kBatches, 1.0F), 0);
}

TEST(Calibrate, FewerMicroBatchesThanRanks) {
  expect_same_on_any_ranks({0.5F}, 0);
}

TEST(Calibrate, AMicroBatchAMillionTimesLargerWidensUntilItFits) {
  std::vector<float> scales(kBatches, 1e-3F);
  scales[5] = 1e3F;
  expect_same_on_any_ranks(scales, 3);
}

TEST(Calibrate, AnOverflowOnOneRankIsKnownToAll) {
  std::vector<float> scales(kBatches, 1.0F);
  scales.back() = 300.0F;
  expect_same_on_any_ranks(scales, 1);
}

TEST(Calibrate, ActivationsThatAreNotFiniteAreRefusedInTheEnd) {
  std::vector<float> scales(kBatches, 1.0F);
  scales[2] = INFINITY;
  Session session = quiet_session(&mpi_environment());
  try {
    measure(session, batches_of(scales), 0);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {  // on every rank, of whom one speaks for all
    EXPECT_EQ(error.exit_code(), ExitCode::data);
  }
}

TEST(Calibrate, DeadChannelsStayZero) {
  Session session = quiet_session();
  std::vector<HostTensor> batches = batches_of({1.0F, 1.0F});
  for (HostTensor& batch : batches) {
    for (std::size_t t = 0; t < static_cast<std::size_t>(kTokens); ++t) {
      batch.as<float>()[t * kFeatures + 3] = 0.0F;
    }
  }
  const Measured measured = measure(session, batches, 0);
  for (std::size_t j = 3; j < kFeatures; ++j) {
    EXPECT_EQ(measured.sums.as<std::int64_t>()[3 * kFeatures + j], 0);
  }
  expect_gram(measured, batches);
}

}  // namespace
}  // namespace quern::test
