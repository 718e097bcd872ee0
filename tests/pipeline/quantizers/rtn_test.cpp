#include "pipeline/quantizers/rtn.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/core/float16.h"
#include "pipeline/quantizers/quantizer.h"
#include "tests/pipeline/quantizers/host_matrix.h"

namespace quern::test {
namespace {

using testing::ElementsAre;

/// Symmetric, 3 bits: scale = 2 absmax / 7, zero 4. Row 0 has absmax 3.5, so scale 1; ties go to
/// even: 0.5 -> 4 + 0, 1.5 -> 4 + 2, -2.5 -> 4 - 2; 3.5 -> 4 + 4 is cut to 7.
TEST(Rtn, SymmetricCodesAreThoseComputedByHand) {
  const auto backend = make_cpu_backend(1);
  const Tensor weight = backend->memory().to_device(
      host_matrix({{0.5F, 1.5F, -2.5F, 3.5F}, {0.25F, -0.5F, 0.75F, -1.75F}}));
  const ModuleTask task{
      "m", weight.view(), {.bits = 3, .group_size = -1, .scale_search = ScaleSearch::absmax}, {}};
  const auto quantizer = make_quantizer(config_of(Method::rtn));
  EXPECT_FALSE(quantizer->needed().any());
  BundleStatistics none;
  const auto solved = solve(*quantizer, *backend, std::span(&task, 1), none);
  ASSERT_EQ(solved.size(), 1U);
  Memory& memory = backend->memory();
  EXPECT_THAT(memory.to_host(on_grid(solved[0]).codes.view()).as<std::uint8_t>(),
              ElementsAre(4, 6, 2, 7, 4, 3, 6, 0));
  EXPECT_THAT(memory.to_host(on_grid(solved[0]).scales.view()).as<std::uint16_t>(),
              ElementsAre(0x3C00, 0x3800));
  EXPECT_THAT(memory.to_host(on_grid(solved[0]).zeros.view()).as<std::uint8_t>(),
              ElementsAre(4, 4));
  EXPECT_THAT(memory.to_host(on_grid(solved[0]).group_of.view()).as<std::int32_t>(),
              ElementsAre(0, 0, 0, 0));
}

/// Asymmetric, 2 bits, two groups: the range is widened to include 0.
/// Group 0: [-1, 2], scale 1, zero 1. Group 1: [0, 6], scale 2, zero 0.
TEST(Rtn, AsymmetricGroupsIncludeZero) {
  const auto backend = make_cpu_backend(1);
  const Tensor weight =
      backend->memory().to_device(host_matrix({{-1.0F, 2.0F, 0.25F, 2.0F, 6.0F, 3.5F}}));
  const ModuleTask task{
      "m",
      weight.view(),
      {.bits = 2, .group_size = 3, .symmetric = false, .scale_search = ScaleSearch::absmax},
      {}};
  BundleStatistics none;
  const auto solved =
      solve(*make_quantizer(config_of(Method::rtn)), *backend, std::span(&task, 1), none);
  Memory& memory = backend->memory();
  EXPECT_THAT(memory.to_host(on_grid(solved[0]).codes.view()).as<std::uint8_t>(),
              ElementsAre(0, 3, 1, 1, 3, 2));
  EXPECT_THAT(memory.to_host(on_grid(solved[0]).scales.view()).as<std::uint16_t>(),
              ElementsAre(0x3C00, 0x4000));
  EXPECT_THAT(memory.to_host(on_grid(solved[0]).zeros.view()).as<std::uint8_t>(),
              ElementsAre(1, 0));
}

TEST(Rtn, SeveralModulesKeepTheirOrder) {
  const auto backend = make_cpu_backend(1);
  const Tensor first = backend->memory().to_device(host_matrix({{1.0F, -1.0F}}));
  const Tensor second = backend->memory().to_device(host_matrix({{1.0F, 0.0F}, {2.0F, 4.0F}}));
  const std::vector<ModuleTask> tasks = {{"a", first.view(), {.bits = 4}, {}},
                                         {"b", second.view(), {.bits = 8}, {}}};
  BundleStatistics none;
  const auto solved = solve(*make_quantizer(config_of(Method::rtn)), *backend, tasks, none);
  ASSERT_EQ(solved.size(), 2U);
  EXPECT_EQ(on_grid(solved[0]).codes.shape(), (Shape{1, 2}));
  EXPECT_EQ(on_grid(solved[1]).codes.shape(), (Shape{2, 2}));
}

}  // namespace
}  // namespace quern::test
