#include <gtest/gtest.h>

#include <tuple>

#include "tests/pipeline/model/block_pass.h"
#include "tests/pipeline/model/gpu_session.h"

namespace quern::test {
namespace {

using Parameters = std::tuple<BlockVariant, DType>;

class GpuBlock : public testing::TestWithParam<Parameters> {};

/// Around a warp and a tile, and one large.
TEST_P(GpuBlock, ForwardAndBackwardEqualTheCpu) {
  if (cuda_device_count() == 0) GTEST_SKIP() << kNoGpu;
  const auto& [variant, type] = GetParam();
  Session session = gpu_session(type);
  for (const std::int64_t length : {1, 31, 32, 33, 127, 129, 1000}) {
    expect_block_like_cpu(variant, session, type, length);
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, GpuBlock,
                         testing::Combine(testing::ValuesIn(block_variants()),
                                          testing::Values(DType::f32, DType::bf16, DType::f16)),
                         [](const auto& chosen) {
                           return std::get<0>(chosen.param).name + "_" +
                                  std::string(dtype_name(std::get<1>(chosen.param)));
                         });

}  // namespace
}  // namespace quern::test
