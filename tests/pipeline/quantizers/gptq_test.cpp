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

/// H of a few inputs.
BundleStatistics gram_of(Backend& backend, const HostTensor& x) {
  BundleStatistics statistics;
  statistics.gram = make_gram(backend.memory(), x.shape[1]);
  const Tensor device = backend.memory().to_device(x);
  const GramView view = statistics.gram->view();
  backend.statistics().choose_gram_exponents(device.view(), x.shape[0], 10, view.exponents);
  backend.statistics().accumulate_gram(device.view(), x.shape[0], view);
  backend.memory().synchronize();
  return statistics;
}

/// Without correlation nothing is fed back: the codes are those of rounding.
TEST(Gptq, UncorrelatedInputsAreRounded) {
  const auto backend = make_cpu_backend(1);
  BundleStatistics statistics =
      gram_of(*backend, host_matrix({{1, 0, 0, 0}, {0, 2, 0, 0}, {0, 0, 3, 0}, {0, 0, 0, 1}}));
  const Tensor weight = backend->memory().to_device(host_matrix({{0.5F, 1.4F, -2.6F, 3.5F}}));
  const ModuleTask task{
      "m", weight.view(), {.bits = 3, .group_size = -1, .scale_search = ScaleSearch::absmax}, {}};
  const auto quantizer = make_quantizer(config_of(Method::gptq));
  EXPECT_TRUE(quantizer->needed().gram);
  EXPECT_FALSE(quantizer->needed().backward());
  const auto solved = solve(*quantizer, *backend, std::span(&task, 1), statistics);
  ASSERT_EQ(solved.size(), 1U);
  EXPECT_THAT(backend->memory().to_host(on_grid(solved[0]).codes.view()).as<std::uint8_t>(),
              ElementsAre(4, 5, 1, 7));
  EXPECT_EQ(solved[0].damping_fraction, 0.01);
  EXPECT_EQ(solved[0].dead_columns, 0);
}

/// Two inputs that are always equal: the second weight makes up for the first one's rounding.
TEST(Gptq, ACorrelatedColumnMakesUpForTheErrorBeforeIt) {
  const auto backend = make_cpu_backend(1);
  BundleStatistics statistics = gram_of(*backend, host_matrix({{1, 1, 0}, {2, 2, 0}, {0, 0, 1}}));
  const Tensor weight = backend->memory().to_device(host_matrix({{0.4F, 0.3F, 3.5F}}));
  const ModuleTask task{
      "m", weight.view(), {.bits = 3, .group_size = -1, .scale_search = ScaleSearch::absmax}, {}};
  const auto solved =
      solve(*make_quantizer(config_of(Method::gptq)), *backend, std::span(&task, 1), statistics);
  EXPECT_THAT(backend->memory().to_host(on_grid(solved[0]).codes.view()).as<std::uint8_t>(),
              ElementsAre(4, 5, 7));
}

TEST(Gptq, DeadInputsAreCounted) {
  const auto backend = make_cpu_backend(1);
  BundleStatistics statistics = gram_of(*backend, host_matrix({{1, 0, 1}, {2, 0, -1}}));
  const Tensor weight = backend->memory().to_device(host_matrix({{1.0F, 2.0F, 3.0F}}));
  const ModuleTask task{"m", weight.view(), {.bits = 4}, {}};
  const auto solved =
      solve(*make_quantizer(config_of(Method::gptq)), *backend, std::span(&task, 1), statistics);
  EXPECT_EQ(solved[0].dead_columns, 1);
}

TEST(Gptq, AModuleThatCannotBeSolvedIsNamed) {
  const auto backend = make_cpu_backend(1);
  const auto quantizer = make_quantizer(config_of(Method::gptq));
  const auto message = [&](const HostTensor& x, const HostTensor& weight) {
    BundleStatistics statistics = gram_of(*backend, x);
    const Tensor good = backend->memory().to_device(host_matrix({{1.0F, 2.0F}}));
    const Tensor tested = backend->memory().to_device(weight);
    const std::vector<ModuleTask> tasks = {{"model.layers.3.good", good.view(), {.bits = 4}, {}},
                                           {"model.layers.3.bad", tested.view(), {.bits = 4}, {}}};
    try {
      solve(*quantizer, *backend, tasks, statistics);
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
