#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda_backend.h"
#include "tests/support/floats.h"

namespace quern::test {

/// The same values on both backends: on CUDA in the type asked for, on the CPU in f64 if that is
/// f64 and otherwise in f32, which holds them exactly.
struct Twin {
  Tensor cpu;
  Tensor cuda;
};

/// |cuda - cpu| <= relative * |cpu| + absolute, and both are finite.
struct Tolerance {
  double relative = 0.0;
  double absolute = 0.0;
};

/// The activation types, for INSTANTIATE_TEST_SUITE_P, and their names.
std::vector<DType> activation_types();
std::string type_name(const testing::TestParamInfo<DType>& type);

/// Sizes around a warp and a tile.
std::vector<std::int64_t> edge_sizes();

/// Both backends, for activations of the parameter's type: those of the CPU are f64 if CUDA's are,
/// otherwise f32. Skips without a device.
class CudaCase : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override;

  DType type() const { return GetParam(); }
  /// Of one rounding to the activation type.
  double rounding() const { return rounding_of(type()); }
  /// Of one rounding of a sum: in double for f64, otherwise in float.
  static double sum_rounding(DType dtype);
  double sum_rounding() const { return sum_rounding(type()); }

  Backend& cpu() { return *cpu_; }
  Backend& cuda() { return *cuda_; }

  /// Normal values times `scale`, rounded to `dtype`.
  Twin values(DType dtype, const Shape& shape, unsigned seed, double scale = 1.0);
  Twin values(const Shape& shape, unsigned seed, double scale = 1.0) {
    return values(type(), shape, seed, scale);
  }
  /// The values given, rounded to `dtype`.
  Twin stored(DType dtype, const Shape& shape, const std::vector<double>& numbers);
  Twin integers(const std::vector<std::int32_t>& numbers);
  /// Uninitialised but for a pattern that is no plausible result.
  Twin poisoned(DType dtype, const Shape& shape);
  Twin poisoned(const Shape& shape) { return poisoned(type(), shape); }

  /// Of any plain float type.
  std::vector<double> cpu_values(const Tensor& tensor);
  std::vector<double> cuda_values(const Tensor& tensor);
  void expect_close(const Twin& twin, const Tolerance& tolerance);
  /// Largest magnitude of the CPU's values.
  double magnitude(const Twin& twin);

 private:
  std::unique_ptr<Backend> cpu_;
  std::unique_ptr<Backend> cuda_;
};

}  // namespace quern::test
