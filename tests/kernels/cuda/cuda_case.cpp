#include "tests/kernels/cuda/cuda_case.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "kernels/core/float16.h"

namespace quern::test {
namespace {

/// The type on the CPU of what has type `dtype` on CUDA.
DType cpu_dtype(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

/// Sets element i of a tensor of any plain float type to the value rounded to its type.
void set_element(HostTensor& tensor, std::size_t i, double value) {
  const auto single = static_cast<float>(value);
  if (tensor.dtype == DType::f64) {
    tensor.as<double>()[i] = value;
  } else if (tensor.dtype == DType::f32) {
    tensor.as<float>()[i] = single;
  } else {
    tensor.as<std::uint16_t>()[i] =
        tensor.dtype == DType::f16 ? float_to_f16(single) : float_to_bf16(single);
  }
}

std::vector<double> values_of(const HostTensor& host) {
  std::vector<double> values(static_cast<std::size_t>(host.shape.elems()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] =
        host.dtype == DType::f64 ? host.as<double>()[i] : static_cast<double>(float_at(host, i));
  }
  return values;
}

}  // namespace

std::vector<DType> activation_types() {
  return {DType::bf16, DType::f16, DType::f32, DType::f64};
}

std::string type_name(const testing::TestParamInfo<DType>& type) {
  return std::string(dtype_name(type.param));
}

std::vector<std::int64_t> edge_sizes() {
  return {1, 31, 32, 33, 127, 129};
}

void CudaCase::SetUp() {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no CUDA device on this machine";
  cpu_ = make_cpu_backend(2, Memory::unlimited, cpu_dtype(type()));
  cuda_ = make_cuda_backend({.device = 0, .activation_dtype = type()});
}

double CudaCase::sum_rounding(DType dtype) {
  return rounding_of(cpu_dtype(dtype));
}

Twin CudaCase::values(DType dtype, const Shape& shape, unsigned seed, double scale) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal(0.0, scale);
  std::vector<double> numbers(static_cast<std::size_t>(shape.elems()));
  for (double& number : numbers) number = normal(engine);
  return stored(dtype, shape, numbers);
}

Twin CudaCase::stored(DType dtype, const Shape& shape, const std::vector<double>& numbers) {
  HostTensor narrow(dtype, shape);
  HostTensor exact(cpu_dtype(dtype), shape);
  for (std::size_t i = 0; i < numbers.size(); ++i) set_element(narrow, i, numbers[i]);
  const std::vector<double> held = values_of(narrow);
  for (std::size_t i = 0; i < held.size(); ++i) set_element(exact, i, held[i]);
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
  return {cpu().memory().allocate(cpu_dtype(dtype), shape), cuda().memory().to_device(narrow)};
}

std::vector<double> CudaCase::cpu_values(const Tensor& tensor) {
  return values_of(cpu().memory().to_host(tensor.view()));
}

std::vector<double> CudaCase::cuda_values(const Tensor& tensor) {
  return values_of(cuda().memory().to_host(tensor.view()));
}

void CudaCase::expect_close(const Twin& twin, const Tolerance& tolerance) {
  const std::vector<double> expected = cpu_values(twin.cpu);
  const std::vector<double> actual = cuda_values(twin.cuda);
  ASSERT_EQ(expected.size(), actual.size());
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double right = expected[i];
    const double allowed = tolerance.relative * std::fabs(right) + tolerance.absolute;
    const bool fits = std::fabs(actual[i] - right) <= allowed;
    if (fits || ++wrong > 3) continue;
    ADD_FAILURE() << "element " << i << " of " << twin.cpu.shape().text() << ": " << actual[i]
                  << ", expected " << right << " within " << allowed << ", is off by "
                  << actual[i] - right;
  }
  EXPECT_EQ(wrong, 0U) << "elements beyond the tolerance";
}

double CudaCase::magnitude(const Twin& twin) {
  double largest = 0.0;
  for (const double value : cpu_values(twin.cpu)) largest = std::max(largest, std::fabs(value));
  return largest;
}

}  // namespace quern::test
