#include "tests/support/floats.h"

#include "kernels/core/float16.h"

namespace quern::test {

double rounding_of(DType dtype) {
  if (dtype == DType::bf16) return 0x1p-8;
  if (dtype == DType::f16) return 0x1p-11;
  if (dtype == DType::f64) return 0x1p-53;
  return kFloatRounding;
}

float float_at(const HostTensor& host, std::size_t i) {
  if (host.dtype == DType::f64) return static_cast<float>(host.as<double>()[i]);
  if (host.dtype == DType::f16) return f16_to_float(host.as<std::uint16_t>()[i]);
  if (host.dtype == DType::bf16) return bf16_to_float(host.as<std::uint16_t>()[i]);
  return host.as<float>()[i];
}

std::vector<float> floats_of(const HostTensor& host) {
  std::vector<float> floats(static_cast<std::size_t>(host.shape.elems()));
  for (std::size_t i = 0; i < floats.size(); ++i) floats[i] = float_at(host, i);
  return floats;
}

}  // namespace quern::test
