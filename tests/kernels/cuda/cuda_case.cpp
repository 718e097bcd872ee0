#include "tests/kernels/cuda/cuda_case.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "kernels/core/float16.h"

namespace quern::test {
namespace {

/// Rounds to dtype and back; `bits` gets what is stored in a 16-bit type.
float rounded(DType dtype, float value, std::uint16_t& bits) {
  if (dtype == DType::f16) return f16_to_float(bits = float_to_f16(value));
  if (dtype == DType::bf16) return bf16_to_float(bits = float_to_bf16(value));
  return value;
}

}  // namespace

std::vector<DType> activation_types() {
  return {DType::bf16, DType::f16, DType::f32};
}

std::string type_name(const testing::TestParamInfo<DType>& type) {
  return std::string(dtype_name(type.param));
}

std::vector<std::int64_t> edge_sizes() {
  return {1, 31, 32, 33, 127, 129};
}

void CudaCase::SetUp() {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no CUDA device on this machine";
  cpu_ = make_cpu_backend(2);
  cuda_ = make_cuda_backend({.device = 0, .activation_dtype = type()});
}

Twin CudaCase::values(DType dtype, const Shape& shape, unsigned seed, double scale) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal(0.0, scale);
  std::vector<float> floats(static_cast<std::size_t>(shape.elems()));
  for (float& value : floats) value = static_cast<float>(normal(engine));
  return stored(dtype, shape, floats);
}

Twin CudaCase::stored(DType dtype, const Shape& shape, const std::vector<float>& floats) {
  HostTensor exact(DType::f32, shape);
  HostTensor narrow(dtype, shape);
  for (std::size_t i = 0; i < floats.size(); ++i) {
    std::uint16_t bits = 0;
    exact.as<float>()[i] = rounded(dtype, floats[i], bits);
    if (dtype == DType::f64) {
      narrow.as<double>()[i] = static_cast<double>(floats[i]);
    } else if (dtype == DType::f32) {
      narrow.as<float>()[i] = floats[i];
    } else {
      narrow.as<std::uint16_t>()[i] = bits;
    }
  }
  return {cpu().memory().to_device(exact), cuda().memory().to_device(narrow)};
}

Twin CudaCase::integers(const std::vector<std::int32_t>& numbers) {
  HostTensor host(DType::i32, {static_cast<std::int64_t>(numbers.size())});
  std::ranges::copy(numbers, host.as<std::int32_t>().begin());
  return {cpu().memory().to_device(host), cuda().memory().to_device(host)};
}

Twin CudaCase::poisoned(DType dtype, const Shape& shape) {
  HostTensor narrow(dtype, shape);
  std::memset(narrow.bytes.data(), 0x7B, narrow.bytes.size());
  return {cpu().memory().allocate(DType::f32, shape), cuda().memory().to_device(narrow)};
}

std::vector<float> CudaCase::cpu_floats(const Tensor& tensor) {
  const auto* values = tensor.view().as<float>();
  return {values, values + tensor.shape().elems()};
}

std::vector<float> CudaCase::cuda_floats(const Tensor& tensor) {
  return floats_of(cuda().memory().to_host(tensor.view()));
}

void CudaCase::expect_close(const Twin& twin, const Tolerance& tolerance) {
  const std::vector<float> expected = cpu_floats(twin.cpu);
  const std::vector<float> actual = cuda_floats(twin.cuda);
  ASSERT_EQ(expected.size(), actual.size());
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const auto right = static_cast<double>(expected[i]);
    const double allowed = tolerance.relative * std::fabs(right) + tolerance.absolute;
    const bool fits = std::fabs(static_cast<double>(actual[i]) - right) <= allowed;
    if (fits || ++wrong > 3) continue;
    ADD_FAILURE() << "element " << i << " of " << twin.cpu.shape().text() << ": " << actual[i]
                  << ", expected " << right << " within " << allowed;
  }
  EXPECT_EQ(wrong, 0U) << "elements beyond the tolerance";
}

double CudaCase::magnitude(const Twin& twin) {
  double largest = 0.0;
  for (const float value : cpu_floats(twin.cpu)) {
    largest = std::max(largest, std::fabs(static_cast<double>(value)));
  }
  return largest;
}

}  // namespace quern::test
