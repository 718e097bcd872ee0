#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/core/error.h"
#include "tests/kernels/cuda/cuda_case.h"

namespace quern::test {
namespace {

using CudaBackendTest = CudaCase;

TEST_P(CudaBackendTest, NamesWhatDecidesTheNumbers) {
  EXPECT_EQ(cuda().activation_dtype(), type());
  const std::string numerics = cuda().numerics();
  EXPECT_THAT(numerics, testing::MatchesRegex("cuda \\(.+ [0-9]+\\.[0-9]+, CUDA .+, cuBLAS .+, "
                                              "(BF16|F16|F32|F64)\\)"));
  EXPECT_THAT(numerics, testing::HasSubstr(std::string(dtype_name(type()))));
}

TEST_P(CudaBackendTest, RefusesOtherActivations) {
  const DType other = type() == DType::f32 ? DType::bf16 : DType::f32;
  Tensor x = cuda().memory().allocate(other, {2, 2});
  EXPECT_THROW(cuda().layers().add(x.view(), x.view()), ShapeError);
}

TEST_P(CudaBackendTest, TwoWorkSideBySide) {
  const std::unique_ptr<Backend> other =
      make_cuda_backend({.device = 0, .activation_dtype = type()});
  const Twin x = values({129, 65}, 1);
  Tensor sum = other->memory().to_device(cuda().memory().to_host(x.cuda.view()));
  Twin twice = values({129, 65}, 1);
  other->layers().add(sum.view(), sum.view());
  cuda().layers().add(twice.cuda.view(), x.cuda.view());
  EXPECT_EQ(other->memory().to_host(sum.view()).bytes,
            cuda().memory().to_host(twice.cuda.view()).bytes);
}

TEST(CudaOptionsTest, RefusesWhatIsNotThere) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no CUDA device on this machine";
  EXPECT_THROW(make_cuda_backend({.device = -1}), ConfigError);
  EXPECT_THROW(make_cuda_backend({.device = cuda_device_count()}), ConfigError);
  EXPECT_THROW(make_cuda_backend({.device = 0, .activation_dtype = DType::i32}), ConfigError);
  EXPECT_THROW(cuda_device_summary(cuda_device_count()), ConfigError);
  EXPECT_THAT(cuda_device_summary(0), testing::HasSubstr("compute capability"));
}

TEST(CudaOptionsTest, WithoutADeviceSaysSo) {
  if (cuda_device_count() > 0) GTEST_SKIP() << "this machine has a CUDA device";
  EXPECT_THROW(make_cuda_backend({}), ConfigError);
}

INSTANTIATE_TEST_SUITE_P(Types, CudaBackendTest, testing::ValuesIn(activation_types()), type_name);

}  // namespace
}  // namespace quern::test
