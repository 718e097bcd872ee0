#include "kernels/cpu/blas.h"

#include <cblas.h>
#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace quern {
namespace {

template <typename T>
CBLAS_TRANSPOSE transpose_flag(const BlasOperand<T>& operand) {
  return operand.transposed ? CblasTrans : CblasNoTrans;
}

blasint blas(std::int64_t value) {
  return static_cast<blasint>(value);
}

}  // namespace

void multiply(const BlasExtents& extents, const BlasOperand<float>& a, const BlasOperand<float>& b,
              float* c, std::int64_t c_stride) {
  cblas_sgemm(CblasRowMajor, transpose_flag(a), transpose_flag(b), blas(extents.rows),
              blas(extents.columns), blas(extents.depth), extents.alpha, a.data, blas(a.stride),
              b.data, blas(b.stride), extents.accumulate ? 1.0F : 0.0F, c, blas(c_stride));
}

void multiply(const BlasExtents& extents, const BlasOperand<double>& a,
              const BlasOperand<double>& b, double* c, std::int64_t c_stride) {
  cblas_dgemm(CblasRowMajor, transpose_flag(a), transpose_flag(b), blas(extents.rows),
              blas(extents.columns), blas(extents.depth), static_cast<double>(extents.alpha),
              a.data, blas(a.stride), b.data, blas(b.stride), extents.accumulate ? 1.0 : 0.0, c,
              blas(c_stride));
}

void use_calling_thread_for_blas() {
  openblas_set_num_threads(1);
}

std::string blas_name() {
  // The configuration text starts with the name and the version.
  const std::string_view config = openblas_get_config();
  const std::size_t version_end = config.find(' ', config.find(' ') + 1);
  return fmt::format("{} {}", config.substr(0, std::min(version_end, config.size())),
                     openblas_get_corename());
}

}  // namespace quern
