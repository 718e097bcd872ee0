#include "tests/kernels/cuda/module_case.h"

namespace quern::test {

Tensor moved(Backend& from, Backend& to, const Tensor& tensor) {
  return to.memory().to_device(from.memory().to_host(tensor.view()));
}

QuantizedTensor moved(Backend& from, Backend& to, const QuantizedTensor& quantized) {
  return {moved(from, to, quantized.codes), moved(from, to, quantized.scales),
          moved(from, to, quantized.zeros), moved(from, to, quantized.group_of)};
}

CodebookTensor moved(Backend& from, Backend& to, const CodebookTensor& quantized) {
  return {moved(from, to, quantized.codes), moved(from, to, quantized.table),
          moved(from, to, quantized.rows), moved(from, to, quantized.cols),
          moved(from, to, quantized.vals)};
}

HessianFactor moved(Backend& from, Backend& to, const HessianFactor& factor) {
  return {moved(from, to, factor.feedback),
          moved(from, to, factor.diagonal),
          moved(from, to, factor.order),
          moved(from, to, factor.weight),
          factor.act_order,
          factor.damping_fraction,
          factor.dead_columns};
}

TwinGram CudaModuleCase::gram(const Matrix& h) {
  TwinGram twin{make_gram(cpu().memory(), h), {}};
  twin.cuda = {to_cuda(twin.cpu.sums), to_cuda(twin.cpu.exponents), to_cuda(twin.cpu.overflow),
               twin.cpu.h};
  return twin;
}

TwinGram CudaModuleCase::gram(std::int64_t columns, unsigned seed) {
  return gram(correlated_hessian(columns, seed));
}

Tensor CudaModuleCase::cpu_weight(DType dtype, std::int64_t rows, std::int64_t columns,
                                  unsigned seed) {
  std::vector<double> values = random_matrix(rows, columns, seed, 0.05).values;
  return store(cpu().memory(), dtype, {rows, columns}, values);
}

std::int64_t differing_rows(const Tensor& a, const Tensor& b) {
  const std::int64_t rows = a.shape()[0];
  const std::size_t bytes = rows == 0 ? 0 : a.view().bytes() / static_cast<std::size_t>(rows);
  std::int64_t differing = 0;
  for (std::int64_t n = 0; n < rows; ++n) {
    const std::size_t at = static_cast<std::size_t>(n) * bytes;
    differing += std::memcmp(a.view().data + at, b.view().data + at, bytes) != 0 ? 1 : 0;
  }
  return differing;
}

}  // namespace quern::test
