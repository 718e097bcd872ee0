#include "kernels/backend.h"

#include <cblas.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "kernels/core/error.h"
#include "tests/kernels/cpu/cpu_ops.h"

namespace quern::test {
namespace {

TEST(CpuBackendTest, NamesWhatDecidesTheNumbers) {
  const std::unique_ptr<Backend> backend = make_cpu_backend(2);
  EXPECT_THAT(backend->numerics(),
              testing::MatchesRegex("cpu \\(OpenBLAS [0-9]+\\.[0-9]+\\.[0-9]+ [A-Za-z0-9]+\\)"));
  EXPECT_THAT(backend->numerics(), testing::HasSubstr(openblas_get_corename()));
  EXPECT_EQ(backend->activation_dtype(), DType::f32);
  EXPECT_EQ(openblas_get_num_threads(), 1);
}

TEST(CpuBackendTest, ComputesInFloat64WhereAsked) {
  const std::unique_ptr<Backend> backend = make_cpu_backend(1, Memory::unlimited, DType::f64);
  EXPECT_EQ(backend->activation_dtype(), DType::f64);
  EXPECT_THAT(backend->numerics(), testing::EndsWith(", F64)"));
  EXPECT_THROW(make_cpu_backend(1, Memory::unlimited, DType::bf16), InternalError);
}

TEST(CpuBackendTest, RefusesNoThreads) {
  EXPECT_THROW(make_cpu_backend(0), InternalError);
  EXPECT_THROW(make_cpu_backend(-1), InternalError);
}

TEST(CpuBackendTest, OperationsShareItsMemory) {
  const std::unique_ptr<Backend> backend = make_cpu_backend(2);
  std::vector<double> ones(600 * 300, 1.0);
  {
    const Tensor x = store(backend->memory(), DType::f32, {600, 300}, ones);
    const Tensor weight = store(backend->memory(), DType::bf16, {600, 300}, ones);
    Tensor out = backend->memory().allocate(DType::f32, {600, 600});
    backend->layers().linear(x.view(), weight.view(), std::nullopt, out.view());
    EXPECT_EQ(out.view().as<float>()[600 * 600 - 1], 300.0F);
  }
  EXPECT_GT(backend->memory().used_bytes(), 0U);  // working space, kept
  EXPECT_GT(backend->memory().peak_bytes(), backend->memory().used_bytes());
}

// Ranks of one process, or a computing and a solving thread: BLAS is called by both.
TEST(CpuBackendTest, BackendsWorkSideBySide) {
  const auto compute = [](std::vector<std::byte>& bytes) {
    CpuOps cpu(2);
    std::vector<double> values = normal_values(520 * 260, 1);
    const Tensor x = store(cpu.memory, DType::f32, {520, 260}, values);
    Tensor out = cpu.memory.allocate(DType::f32, {520, 520});
    for (int round = 0; round < 20; ++round) {
      cpu.layers.linear(x.view(), x.view(), std::nullopt, out.view());
    }
    bytes = bytes_of(out.view());
  };
  std::vector<std::vector<std::byte>> results(4);
  {
    std::vector<std::jthread> threads;
    for (std::vector<std::byte>& bytes : results) threads.emplace_back(compute, std::ref(bytes));
  }
  for (const std::vector<std::byte>& bytes : results) EXPECT_EQ(bytes, results[0]);
}

}  // namespace
}  // namespace quern::test
