#include "pipeline/quantizers/gptq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/core/error.h"
#include "pipeline/quantizers/quantizer.h"
#include "tests/pipeline/quantizers/host_matrix.h"

namespace quern::test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

/// H of a few inputs, kept with what it points to.
struct Statistics {
  Tensor sums;
  Tensor exponents;
  Tensor overflow;

  Statistics(Backend& backend, const HostTensor& x) {
    Memory& memory = backend.memory();
    const std::int64_t k = x.shape[1];
    sums = memory.allocate(DType::i64, {k, k});
    exponents = memory.allocate(DType::i32, {k});
    overflow = memory.allocate(DType::i64, {1});
    memory.clear(sums.view());
    memory.clear(overflow.view());
    const Tensor device = memory.to_device(x);
    backend.statistics().choose_gram_exponents(device.view(), x.shape[0], 10, exponents.view());
    backend.statistics().accumulate_gram(device.view(), x.shape[0], view());
    memory.synchronize();
  }
  GramView view() { return {sums.view(), exponents.view(), overflow.view()}; }
};

/// Without correlation nothing is fed back: the codes are those of rounding.
TEST(Gptq, UncorrelatedInputsAreRounded) {
  const auto backend = make_cpu_backend(1);
  Statistics statistics(*backend,
                        host_matrix({{1, 0, 0, 0}, {0, 2, 0, 0}, {0, 0, 3, 0}, {0, 0, 0, 1}}));
  const Tensor weight = backend->memory().to_device(host_matrix({{0.5F, 1.4F, -2.6F, 3.5F}}));
  const ModuleTask task{
      "m", weight.view(), {.bits = 3, .group_size = -1, .scale_search = ScaleSearch::absmax}};
  const auto quantizer = make_quantizer(config_of(Method::gptq));
  EXPECT_TRUE(quantizer->needs_gram());
  const auto solved = quantizer->solve(*backend, std::span(&task, 1), statistics.view());
  ASSERT_EQ(solved.size(), 1U);
  EXPECT_THAT(backend->memory().to_host(solved[0].tensor.codes.view()).as<std::uint8_t>(),
              ElementsAre(4, 5, 1, 7));
  EXPECT_EQ(solved[0].damping_fraction, 0.01);
  EXPECT_EQ(solved[0].dead_columns, 0);
}

/// Two inputs that are always equal: the second weight makes up for the first one's rounding.
TEST(Gptq, ACorrelatedColumnMakesUpForTheErrorBeforeIt) {
  const auto backend = make_cpu_backend(1);
  Statistics statistics(*backend, host_matrix({{1, 1, 0}, {2, 2, 0}, {0, 0, 1}}));
  const Tensor weight = backend->memory().to_device(host_matrix({{0.4F, 0.3F, 3.5F}}));
  const ModuleTask task{
      "m", weight.view(), {.bits = 3, .group_size = -1, .scale_search = ScaleSearch::absmax}};
  const auto solved = make_quantizer(config_of(Method::gptq))
                          ->solve(*backend, std::span(&task, 1), statistics.view());
  EXPECT_THAT(backend->memory().to_host(solved[0].tensor.codes.view()).as<std::uint8_t>(),
              ElementsAre(4, 5, 7));
}

TEST(Gptq, DeadInputsAreCounted) {
  const auto backend = make_cpu_backend(1);
  Statistics statistics(*backend, host_matrix({{1, 0, 1}, {2, 0, -1}}));
  const Tensor weight = backend->memory().to_device(host_matrix({{1.0F, 2.0F, 3.0F}}));
  const ModuleTask task{"m", weight.view(), {.bits = 4}};
  const auto solved = make_quantizer(config_of(Method::gptq))
                          ->solve(*backend, std::span(&task, 1), statistics.view());
  EXPECT_EQ(solved[0].dead_columns, 1);
}

TEST(Gptq, AModuleThatCannotBeSolvedIsNamed) {
  const auto backend = make_cpu_backend(1);
  const auto quantizer = make_quantizer(config_of(Method::gptq));
  const auto message = [&](const HostTensor& x, const HostTensor& weight) {
    Statistics statistics(*backend, x);
    const Tensor good = backend->memory().to_device(host_matrix({{1.0F, 2.0F}}));
    const Tensor tested = backend->memory().to_device(weight);
    const std::vector<ModuleTask> tasks = {{"model.layers.3.good", good.view(), {.bits = 4}},
                                           {"model.layers.3.bad", tested.view(), {.bits = 4}}};
    try {
      quantizer->solve(*backend, tasks, statistics.view());
    } catch (const InputError& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  EXPECT_THAT(message(host_matrix({{1, 1}, {1, -1}}), host_matrix({{1e9F, 1.0F}})),
              HasSubstr("'model.layers.3.bad'"));
  EXPECT_THAT(message(host_matrix({{0, 0}}), host_matrix({{1.0F, 1.0F}})),
              HasSubstr("'model.layers.3.good'"));
}

}  // namespace
}  // namespace quern::test
