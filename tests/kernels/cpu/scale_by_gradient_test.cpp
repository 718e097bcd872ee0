#include <gtest/gtest.h>

#include "kernels/statistics_ops.h"
#include "tests/kernels/cpu/cpu_ops.h"

namespace quern::test {
namespace {

std::size_t at(std::int64_t index) {
  return static_cast<std::size_t>(index);
}

// Two roundings to float; squares far below the smallest float count.
TEST(ScaleByGradientTest, MultipliesByTheRootMeanSquare) {
  for (const std::int64_t outputs : {1, 31, 32, 33, 127, 129}) {
    for (const double scale : {1.0, 1e-30}) {
      CpuOps cpu(2);
      const std::int64_t inputs = 130 - outputs;
      std::vector<double> x = normal_values(5 * inputs, 1);
      std::vector<double> dy = normal_values(5 * outputs, 2, scale);
      const Tensor x_tensor = store(cpu.memory, DType::f32, {5, inputs}, x);
      const Tensor dy_tensor = store(cpu.memory, DType::f32, {5, outputs}, dy);
      Tensor out = cpu.memory.allocate(DType::f32, {5, inputs});
      cpu.statistics.scale_by_gradient(x_tensor.view(), dy_tensor.view(), out.view());
      for (std::int64_t t = 0; t < 5; ++t) {
        double squares = 0.0;
        for (std::int64_t n = 0; n < outputs; ++n) {
          squares += dy[at(t * outputs + n)] * dy[at(t * outputs + n)];
        }
        const double factor = std::sqrt(squares / static_cast<double>(outputs));
        for (std::int64_t k = 0; k < inputs; ++k) {
          const double exact = x[at(t * inputs + k)] * factor;
          ASSERT_NEAR(out.view().as<float>()[t * inputs + k], exact,
                      3.0 * kRounding * std::fabs(exact));
        }
      }
    }
  }
}

}  // namespace
}  // namespace quern::test
