#pragma once

#include <cstring>
#include <vector>

#include "tests/kernels/cpu/codebook_case.h"
#include "tests/kernels/cpu/solver_case.h"
#include "tests/kernels/cuda/cuda_case.h"

namespace quern::test {

/// Copies between the memories of two backends.
Tensor moved(Backend& from, Backend& to, const Tensor& tensor);
QuantizedTensor moved(Backend& from, Backend& to, const QuantizedTensor& quantized);
CodebookTensor moved(Backend& from, Backend& to, const CodebookTensor& quantized);
HessianFactor moved(Backend& from, Backend& to, const HessianFactor& factor);

/// A Gram matrix on both backends.
struct TwinGram {
  GramCase cpu;
  GramCase cuda;
};

/// Both backends with modules on them.
class CudaModuleCase : public CudaCase {
 protected:
  Tensor to_cuda(const Tensor& tensor) { return moved(cpu(), cuda(), tensor); }
  Tensor to_cpu(const Tensor& tensor) { return moved(cuda(), cpu(), tensor); }

  /// Of correlated inputs.
  TwinGram gram(std::int64_t columns, unsigned seed);
  TwinGram gram(const Matrix& h);

  /// Normal weights of the type.
  Tensor cpu_weight(DType dtype, std::int64_t rows, std::int64_t columns, unsigned seed);
};

/// Values of a tensor in host memory.
template <typename T>
std::vector<T> elements(const Tensor& tensor) {
  const T* begin = tensor.view().as<T>();
  return {begin, begin + tensor.shape().elems()};
}

/// Rows of [rows, columns] bytes in which two tensors in host memory differ.
std::int64_t differing_rows(const Tensor& a, const Tensor& b);

}  // namespace quern::test
