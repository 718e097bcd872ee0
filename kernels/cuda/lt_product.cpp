#include "kernels/cuda/lt_product.h"

#include <cublasLt.h>

#include <algorithm>
#include <bit>

#include "kernels/core/error.h"
#include "kernels/cuda/errors.h"

namespace quern {
namespace {

constexpr std::int64_t kUsualBatch = 32;  // for which the algorithm of any batch is chosen

/// A product in cublasLt's terms; `what` names it in errors.
class LtCall {
 public:
  LtCall(CudaContext& context, const LtProduct& product, const char* what)
      : context_(context), call_(product), what_(what) {
    const auto single = call_.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    check(cublasLtMatmulDescInit(&product_, doubles() ? CUBLAS_COMPUTE_64F : single,
                                 doubles() ? CUDA_R_64F : CUDA_R_32F));
    if (product.transposed_a) describe(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    if (product.bias == nullptr) return;
    describe(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    describe(CUBLASLT_MATMUL_DESC_BIAS_POINTER, product.bias);
  }

  void run() {
    lay_out(call_.c_layout.stride == 0 ? 1 : kUsualBatch);
    const cublasLtMatmulAlgo_t algorithm = choose_algorithm();
    lay_out(call_.count);
    const float single[] = {1.0F, call_.accumulate ? 1.0F : 0.0F};
    const double twice[] = {1.0, call_.accumulate ? 1.0 : 0.0};
    const void* one = doubles() ? static_cast<const void*>(&twice[0]) : &single[0];
    const void* before = doubles() ? static_cast<const void*>(&twice[1]) : &single[1];
    check(cublasLtMatmul(handle(), &product_, one, call_.a, &a_, call_.b, &b_, before, call_.c, &c_,
                         call_.c, &c_, &algorithm, context_.workspace.data,
                         context_.workspace.bytes(), context_.stream));
  }

 private:
  bool doubles() const { return call_.c_layout.type == CUDA_R_64F; }
  void check(cublasStatus_t status) const { check_cuda(status, what_); }

  /// A cuBLAS handle is one of cublasLt as well, says its manual; only the stream is not taken
  /// over.
  cublasLtHandle_t handle() const { return reinterpret_cast<cublasLtHandle_t>(context_.cublas); }

  template <typename T>
  void describe(cublasLtMatmulDescAttributes_t attribute, T value) {
    check(cublasLtMatmulDescSetAttribute(&product_, attribute, &value, sizeof(value)));
  }

  template <typename T>
  void prefer(cublasLtMatmulPreferenceAttributes_t attribute, T value) {
    check(cublasLtMatmulPreferenceSetAttribute(&preference_, attribute, &value, sizeof(value)));
  }

  void lay_out(std::int64_t count) {
    a_ = layout_of(call_.a_layout, count);
    b_ = layout_of(call_.b_layout, count);
    c_ = layout_of(call_.c_layout, count);
  }

  cublasLtMatrixLayoutOpaque_t layout_of(const LtMatrix& matrix, std::int64_t count) const {
    cublasLtMatrixLayoutOpaque_t layout{};
    check(cublasLtMatrixLayoutInit(&layout, matrix.type, static_cast<std::uint64_t>(matrix.rows),
                                   static_cast<std::uint64_t>(matrix.columns), matrix.leading));
    const auto batch = static_cast<std::int32_t>(count);
    check(cublasLtMatrixLayoutSetAttribute(&layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch,
                                           sizeof(batch)));
    check(cublasLtMatrixLayoutSetAttribute(&layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                           &matrix.stride, sizeof(matrix.stride)));
    return layout;
  }

  /// Parts of a dot product that are added up "in place" or in the output type would be rounded
  /// more than once.
  cublasLtMatmulAlgo_t choose_algorithm() {
    check(cublasLtMatmulPreferenceInit(&preference_));
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{context_.workspace.bytes()});
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_REDUCTION_SCHEME_NONE);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_bytes(call_.a));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_bytes(call_.b));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_bytes(call_.c));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_bytes(call_.c));
    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    check(cublasLtMatmulAlgoGetHeuristic(handle(), &product_, &a_, &b_, &c_, &c_, &preference_, 1,
                                         &best, &found));
    ensure(found == 1, "a shape for which cublasLt has an algorithm");
    return best.algo;
  }

  /// 16 is what tensor cores want. With a larger figure, where a tensor happens to lie would choose
  /// the algorithm and so the bits.
  static std::uint32_t alignment_bytes(const void* data) {
    constexpr int kMostPower = 4;
    return 1U << std::min(kMostPower, std::countr_zero(reinterpret_cast<std::uintptr_t>(data)));
  }

  CudaContext& context_;
  const LtProduct& call_;
  const char* what_;
  cublasLtMatmulDescOpaque_t product_{};
  cublasLtMatmulPreferenceOpaque_t preference_{};
  cublasLtMatrixLayoutOpaque_t a_{};
  cublasLtMatrixLayoutOpaque_t b_{};
  cublasLtMatrixLayoutOpaque_t c_{};
};

}  // namespace

void multiply_lt(CudaContext& context, const LtProduct& product, const char* what) {
  LtCall(context, product, what).run();
}

}  // namespace quern
