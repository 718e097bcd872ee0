#include "kernels/cpu/codebook_solver.h"

#include "kernels/core/error.h"
#include "kernels/cpu/blas.h"
#include "kernels/cpu/codebook_cluster.h"
#include "kernels/cpu/codebook_error.h"
#include "kernels/cpu/codebook_refine.h"
#include "kernels/cpu/outliers.h"

namespace quern {
namespace {

class CpuCodebookSolver final : public CodebookSolver {
 public:
  CpuCodebookSolver(Memory& memory, int threads) : memory_(memory), threads_(threads) {}

 private:
  UninformedRows do_fill_uninformed_rows(TensorView fisher,
                                         std::optional<ConstTensorView> column_energy) override {
    return fill_uninformed_fisher(fisher, column_energy);
  }

  void do_count_ranges(ConstTensorView weight, TensorView counts) override {
    count_outlier_ranges(weight, counts, threads_);
  }

  void do_choose_outliers(ConstTensorView weight, ConstTensorView fisher, const OutlierRule& rule,
                          TensorView mask) override {
    quern::choose_outliers(weight, fisher, rule, mask, threads_);
  }

  CodebookTensor do_cluster(ConstTensorView weight, ConstTensorView fisher,
                            std::optional<ConstTensorView> mask,
                            const CodebookSpec& spec) override {
    return cluster_rows(memory_, {weight, fisher, spec, threads_}, mask);
  }

  CodebookTensor do_cluster_jointly(ConstTensorView weight, ConstTensorView fisher, TensorView mask,
                                    std::int64_t outliers, const CodebookSpec& spec) override {
    return cluster_rows_jointly(memory_, {weight, fisher, spec, threads_}, mask, outliers);
  }

  CodebookTensor do_refine(ConstTensorView weight, ConstTensorView fisher, const GramView& gram,
                           const CodebookTensor& start, const CodebookSpec& spec,
                           const RefineOptions& options) override {
    return refine_codebook(memory_, {weight, fisher, gram, spec, options, threads_}, start);
  }

  void do_dequantize(const CodebookTensor& quantized, TensorView out) override {
    dequantize_codebook(quantized, out, threads_);
  }

  void do_weighted_error(ConstTensorView weight, ConstTensorView quantized, ConstTensorView fisher,
                         TensorView result) override {
    sum_weighted_error({weight, quantized, fisher, threads_}, result.as<double>());
  }

  void do_count_gains(ConstTensorView weight, ConstTensorView quantized, ConstTensorView fisher,
                      TensorView counts, TensorView sums) override {
    count_error_gains({weight, quantized, fisher, threads_}, counts, sums);
  }

  Memory& memory_;
  int threads_;
};

}  // namespace

std::unique_ptr<CodebookSolver> make_cpu_codebook_solver(Memory& memory, int threads) {
  ensure(threads >= 1, "at least one thread");
  use_calling_thread_for_blas();
  return std::make_unique<CpuCodebookSolver>(memory, threads);
}

}  // namespace quern
