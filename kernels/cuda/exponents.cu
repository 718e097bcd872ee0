#include <climits>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/exponents.h"
#include "kernels/cuda/numeric.cuh"

namespace quern::gpu {
namespace {

constexpr int kThreads = 1024;

/// The smallest p with value <= 2^p; value finite and positive.
__device__ int power_above(double value) {
  int power = 0;
  return frexp(value, &power) == 0.5 ? power - 1 : power;
}

__device__ bool is_usable(double value) {
  return value > 0.0 && isfinite(value);
}

/// One block; thread t takes every kThreads-th value.
__global__ void fill_kernel(const double* values, std::int64_t n, ExponentRule rule,
                            std::int32_t* out) {
  __shared__ int smallest;
  if (threadIdx.x == 0) smallest = INT_MAX;
  __syncthreads();
  for (std::int64_t i = threadIdx.x; i < n; i += kThreads) {
    const double value = values[i] * rule.growth;
    if (!is_usable(value)) continue;
    const int exponent = rule.bits - power_above(value);
    out[i] = rule.halved ? exponent >> 1 : exponent;
    atomicMin(&smallest, out[i]);
  }
  __syncthreads();
  for (std::int64_t i = threadIdx.x; i < n; i += kThreads) {
    if (!is_usable(values[i] * rule.growth)) out[i] = smallest == INT_MAX ? 0 : smallest;
  }
}

}  // namespace

void fill_exponents(CudaContext& context, const double* values, const ExponentRule& rule,
                    TensorView out) {
  fill_kernel<<<1, kThreads, 0, context.stream>>>(values, out.elems(), rule,
                                                  out.as<std::int32_t>());
  check_launch("choose exponents");
}

}  // namespace quern::gpu
