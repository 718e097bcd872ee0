#include "pipeline/stages/fisher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "kernels/core/error.h"
#include "tests/support/mpi_test_main.h"
#include "tests/workers/test_session.h"

namespace quern::test {
namespace {

constexpr std::int64_t kLength = 12;  ///< of a sequence
constexpr std::int64_t kBatches = 7;
constexpr std::int64_t kSequences = 2;  ///< of a micro-batch

/// Two inputs of a layer: one module reads the first, two the second.
std::vector<LayerInput> layer_inputs() {
  return {{"a", 0, 10, {{Role::query, "q", 6, 10}}},
          {"b", 1, 9, {{Role::gate, "gate", 4, 9}, {Role::up, "up", 7, 9}}}};
}

/// What the backward pass shows of one micro-batch, in the order of its visits.
struct Shown {
  Role role;
  HostTensor input;
  HostTensor output_gradient;
};
using Batch = std::vector<Shown>;

HostTensor random(std::mt19937& engine, std::int64_t columns, float scale) {
  std::normal_distribution<float> normal;
  HostTensor tensor(DType::f32, {kSequences * kLength, columns});
  for (float& value : tensor.as<float>()) value = scale * normal(engine);
  return tensor;
}

/// One micro-batch for each scale of the gradients; the same on every rank.
std::vector<Batch> batches_of(const std::vector<float>& scales) {
  std::mt19937 engine(5);
  const std::vector<LayerInput> inputs = layer_inputs();
  std::vector<Batch> batches;
  for (const float scale : scales) {
    Batch& batch = batches.emplace_back();
    for (std::size_t i = inputs.size(); i-- > 0;) {
      const HostTensor x = random(engine, inputs[i].features, 1.0F);
      for (const LinearModule& module : inputs[i].modules) {
        batch.push_back({module.role, x, random(engine, module.out_features, scale)});
      }
    }
  }
  return batches;
}

struct Measured {
  std::vector<BundleStatistics> statistics;
  int widened = 0;
};

/// The loop of the pipeline over this rank's micro-batches. wanted: which of the layer's inputs.
Measured measure(Session& session, const std::vector<Batch>& batches,
                 const StatisticsNeeded& needed, const std::vector<int>& owners,
                 const std::vector<std::size_t>& wanted = {0, 1}) {
  const auto count = static_cast<std::int64_t>(batches.size());
  const std::vector<LayerInput> inputs = layer_inputs();
  std::vector<const LayerInput*> measured;
  for (const std::size_t i : wanted) measured.push_back(&inputs[i]);
  Memory& memory = session.backend->memory();
  FisherSums sums(session, measured, needed, {kLength, count * kSequences});
  Measured result;
  while (true) {
    for (std::int64_t round = 0; round * session.ranks() < count; ++round) {
      const std::int64_t m = round * session.ranks() + session.rank();
      if (m >= count) {
        if (round == 0) sums.take_part();
        continue;
      }
      for (const Shown& shown : batches[static_cast<std::size_t>(m)]) {
        const Tensor x = memory.to_device(shown.input);
        const Tensor dy = memory.to_device(shown.output_gradient);
        sums.add({shown.role, x.view(), dy.view()}, round == 0);
        memory.synchronize();
      }
    }
    if (!sums.overflowed()) break;
    sums.widen();
    ++result.widened;
  }
  result.statistics = sums.reduce(owners);
  return result;
}

const Shown& shown_to(const Batch& batch, Role role) {
  for (const Shown& shown : batch) {
    if (shown.role == role) return shown;
  }
  throw std::logic_error("no such role");
}

/// Sum over the sequences of (dy^T x)^2, [N, K] in float64.
std::vector<double> reference_fisher(const std::vector<Batch>& batches, Role role) {
  std::vector<double> sums;
  for (const Batch& batch : batches) {
    const Shown& shown = shown_to(batch, role);
    const auto k = static_cast<std::size_t>(shown.input.shape[1]);
    const auto n = static_cast<std::size_t>(shown.output_gradient.shape[1]);
    sums.resize(n * k);
    for (std::size_t sequence = 0; sequence < kSequences; ++sequence) {
      for (std::size_t i = 0; i < n * k; ++i) {
        double gradient = 0.0;
        for (std::size_t t = sequence * kLength; t < (sequence + 1) * kLength; ++t) {
          gradient += static_cast<double>(shown.output_gradient.as<float>()[t * n + i / k]) *
                      static_cast<double>(shown.input.as<float>()[t * k + i % k]);
        }
        sums[i] += gradient * gradient;
      }
    }
  }
  return sums;
}

/// Sum over the tokens of x^T x times the mean of dy^2, [K, K] in float64.
std::vector<double> reference_guided(const std::vector<Batch>& batches, Role role) {
  std::vector<double> sums;
  for (const Batch& batch : batches) {
    const Shown& shown = shown_to(batch, role);
    const auto k = static_cast<std::size_t>(shown.input.shape[1]);
    const auto n = static_cast<std::size_t>(shown.output_gradient.shape[1]);
    sums.resize(k * k);
    for (std::size_t t = 0; t < static_cast<std::size_t>(kSequences * kLength); ++t) {
      double mean = 0.0;
      for (std::size_t i = 0; i < n; ++i) {
        const auto dy = static_cast<double>(shown.output_gradient.as<float>()[t * n + i]);
        mean += dy * dy / static_cast<double>(n);
      }
      for (std::size_t i = 0; i < k * k; ++i) {
        sums[i] += mean * static_cast<double>(shown.input.as<float>()[t * k + i / k]) *
                   static_cast<double>(shown.input.as<float>()[t * k + i % k]);
      }
    }
  }
  return sums;
}

/// Every entry within 2^-20 of itself, and what a float32 product that cancels may be off.
void expect_fisher(Session& session, const Tensor& fisher, const std::vector<double>& expected) {
  const HostTensor found = session.backend->memory().to_host(fisher.view());
  const auto columns = static_cast<std::size_t>(found.shape[1]);
  ASSERT_EQ(found.as<float>().size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const auto row = expected.begin() + static_cast<std::ptrdiff_t>(i / columns * columns);
    const double largest = *std::max_element(row, row + static_cast<std::ptrdiff_t>(columns));
    EXPECT_NEAR(static_cast<double>(found.as<float>()[i]), expected[i],
                0x1p-20 * expected[i] + 0x1p-22 * std::sqrt(expected[i] * largest))
        << "entry " << i;
  }
}

/// Every entry on and above the diagonal within 2^-20 of sqrt(H_ii H_jj).
void expect_guided(Session& session, Gram& gram, const std::vector<double>& expected) {
  const HostTensor sums = session.backend->memory().to_host(gram.sums.view());
  const HostTensor exponents = session.backend->memory().to_host(gram.exponents.view());
  const auto k = static_cast<std::size_t>(sums.shape[0]);
  ASSERT_EQ(k * k, expected.size());
  for (std::size_t i = 0; i < k; ++i) {
    for (std::size_t j = i; j < k; ++j) {
      const int exponent = exponents.as<std::int32_t>()[i] + exponents.as<std::int32_t>()[j];
      const auto sum = static_cast<double>(sums.as<std::int64_t>()[i * k + j]);
      EXPECT_NEAR(std::ldexp(sum, -exponent), expected[i * k + j],
                  0x1p-20 * std::sqrt(expected[i * k + i] * expected[j * k + j]))
          << i << ", " << j;
    }
  }
}

void expect_same_bits(Session& session, ModuleStatistics& a, ModuleStatistics& b) {
  Memory& memory = session.backend->memory();
  const auto bytes = [&](const Tensor& tensor) { return memory.to_host(tensor.view()).bytes; };
  ASSERT_EQ(a.fisher.has_value(), b.fisher.has_value());
  ASSERT_EQ(a.guided.has_value(), b.guided.has_value());
  if (a.fisher) {
    EXPECT_EQ(bytes(*a.fisher), bytes(*b.fisher));
  }
  if (a.guided) {
    EXPECT_EQ(bytes(a.guided->sums), bytes(b.guided->sums));
    EXPECT_EQ(bytes(a.guided->exponents), bytes(b.guided->exponents));
  }
}

/// On the job's ranks and on one: right, and the same bits, each input on its owner alone.
void expect_same_on_any_ranks(const std::vector<float>& scales, int widened) {
  Session session = quiet_session(&mpi_environment());
  Session alone = quiet_session(nullptr, 1);
  const std::vector<Batch> batches = batches_of(scales);
  const std::vector<int> owners = {session.ranks() - 1, session.ranks() / 2};
  const StatisticsNeeded needed{.fisher = true, .guided = true};
  Measured together = measure(session, batches, needed, owners);
  Measured single = measure(alone, batches, needed, {0, 0});
  EXPECT_EQ(together.widened, widened);
  EXPECT_EQ(single.widened, widened);
  const std::vector<LayerInput> inputs = layer_inputs();
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const bool mine = owners[i] == session.rank();
    EXPECT_EQ(together.statistics[i].modules.size(), mine ? inputs[i].modules.size() : 0U);
    for (const LinearModule& module : inputs[i].modules) {
      ModuleStatistics& found = single.statistics[i].modules.at(module.name);
      expect_fisher(alone, *found.fisher, reference_fisher(batches, module.role));
      expect_guided(alone, *found.guided, reference_guided(batches, module.role));
      if (mine) {
        expect_same_bits(alone, together.statistics[i].modules.at(module.name), found);
      }
    }
  }
}

TEST(FisherSums, AreTheSameForAnyNumberOfRanks) {
  expect_same_on_any_ranks(std::vector<float>(kBatches, 1e-3F), 0);
}

TEST(FisherSums, FewerMicroBatchesThanRanks) {
  expect_same_on_any_ranks({1e-4F}, 0);
  expect_same_on_any_ranks({1e-4F, 2e-4F}, 0);
}

/// Squares 2^8 times larger fill what 8 bits of headroom leave for the one micro-batch.
TEST(FisherSums, ABurstOfOneMicroBatchNeedsNoSecondPass) {
  std::vector<float> scales(kBatches, 1e-3F);
  scales[5] = 0.016F;
  Session session = quiet_session(&mpi_environment());
  const std::vector<Batch> batches = batches_of(scales);
  Measured found = measure(session, batches, {.fisher = true}, {0, 0});
  EXPECT_EQ(found.widened, 0);
  for (BundleStatistics& bundle : found.statistics) {
    for (auto& [name, statistics] : bundle.modules) {
      const Role role = name == "q" ? Role::query : name == "up" ? Role::up : Role::gate;
      expect_fisher(session, *statistics.fisher, reference_fisher(batches, role));
    }
  }
}

/// Squares 2^25 times larger: 8 bits were left, and a step gives 10.
TEST(FisherSums, AnOverflowOfTheLastMicroBatchWidensUntilItFits) {
  std::vector<float> scales(kBatches, 1e-6F);
  scales.back() = 7e-3F;
  expect_same_on_any_ranks(scales, 2);
}

TEST(FisherSums, AnOverflowInTheMiddleStartsAllMicroBatchesAgain) {
  std::vector<float> scales(kBatches, 1e-3F);
  scales[4] = 0.03F;
  expect_same_on_any_ranks(scales, 1);
}

TEST(FisherSums, GradientsThatAreNotFiniteAreRefusedInTheEnd) {
  std::vector<float> scales(kBatches, 1.0F);
  scales[3] = INFINITY;
  Session session = quiet_session(&mpi_environment());
  try {
    measure(session, batches_of(scales), {.fisher = true}, {0, 0});
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {  // on every rank, of whom one speaks for all
    EXPECT_EQ(error.exit_code(), ExitCode::data);
    EXPECT_THAT(error.what(), testing::HasSubstr("gradients"));
  }
}

TEST(FisherSums, HoldOnlyWhatIsNeededOfTheInputsThatAreWanted) {
  Session session = quiet_session(&mpi_environment());
  const std::vector<Batch> batches = batches_of({1.0F, 2.0F, 3.0F, 4.0F});
  Measured found = measure(session, batches, {.guided = true}, {0}, {1});
  ASSERT_EQ(found.statistics.size(), 1U);
  EXPECT_FALSE(found.statistics[0].gram);
  EXPECT_EQ(found.statistics[0].modules.size(), session.is_root() ? 2U : 0U);
  for (auto& [name, statistics] : found.statistics[0].modules) {
    EXPECT_FALSE(statistics.fisher) << name;
    expect_guided(session, *statistics.guided,
                  reference_guided(batches, name == "up" ? Role::up : Role::gate));
  }
  found = measure(session, batches, {.fisher = true}, {0}, {0});
  for (auto& [name, statistics] : found.statistics[0].modules) {
    EXPECT_FALSE(statistics.guided) << name;
    expect_fisher(session, *statistics.fisher, reference_fisher(batches, Role::query));
  }
}

/// An output that never matters has no gradient; the others are as if it were not there.
TEST(FisherSums, ADeadOutputStaysZero) {
  Session session = quiet_session(&mpi_environment());
  std::vector<Batch> batches = batches_of(std::vector<float>(kBatches, 1e-3F));
  for (Batch& batch : batches) {
    HostTensor& dy = batch.back().output_gradient;  // of q
    for (std::size_t i = 2; i < dy.as<float>().size(); i += 6) dy.as<float>()[i] = 0.0F;
  }
  Measured found = measure(session, batches, {.fisher = true}, {0, 0});
  if (!session.is_root()) return;
  const Tensor& fisher = *found.statistics[0].modules.at("q").fisher;
  const HostTensor host = session.backend->memory().to_host(fisher.view());
  EXPECT_THAT(host.as<float>().subspan(20, 10), testing::Each(0.0F));
  expect_fisher(session, fisher, reference_fisher(batches, Role::query));
}

}  // namespace
}  // namespace quern::test
