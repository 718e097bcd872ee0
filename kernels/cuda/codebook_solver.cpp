#include "kernels/cuda/codebook_cluster.h"
#include "kernels/cuda/codebook_error.h"
#include "kernels/cuda/codebook_refine.h"
#include "kernels/cuda/outliers.h"

namespace quern::gpu {
namespace {

class CudaCodebookSolver final : public CodebookSolver {
 public:
  explicit CudaCodebookSolver(CudaContext& context) : context_(context) {}

 private:
  UninformedRows do_fill_uninformed_rows(TensorView fisher,
                                         std::optional<ConstTensorView> column_energy) override {
    return fill_uninformed_fisher(context_, fisher, column_energy);
  }

  void do_count_ranges(ConstTensorView weight, TensorView counts) override {
    count_outlier_ranges(context_, load_weights(context_, weight), counts);
  }

  void do_choose_outliers(ConstTensorView weight, ConstTensorView fisher, const OutlierRule& rule,
                          TensorView mask) override {
    gpu::choose_outliers(context_, load_weights(context_, weight), fisher, rule, mask);
  }

  CodebookTensor do_cluster(ConstTensorView weight, ConstTensorView fisher,
                            std::optional<ConstTensorView> mask,
                            const CodebookSpec& spec) override {
    return cluster_rows(context_, {weight, fisher, spec}, mask);
  }

  CodebookTensor do_cluster_jointly(ConstTensorView weight, ConstTensorView fisher, TensorView mask,
                                    std::int64_t outliers, const CodebookSpec& spec) override {
    return cluster_rows_jointly(context_, {weight, fisher, spec}, mask, outliers);
  }

  CodebookTensor do_refine(ConstTensorView weight, ConstTensorView fisher, const GramView& gram,
                           const CodebookTensor& start, const CodebookSpec& spec,
                           const RefineOptions& options) override {
    return refine_codebook(context_, {weight, fisher, gram, spec, options}, start);
  }

  void do_dequantize(const CodebookTensor& quantized, TensorView out) override {
    dequantize_codebook(context_, quantized, out);
  }

  void do_weighted_error(ConstTensorView weight, ConstTensorView quantized, ConstTensorView fisher,
                         TensorView result) override {
    const FloatWeights weights = load_weights(context_, weight);
    sum_weighted_error(context_, errors_of(weights, quantized, fisher), result.as<double>());
  }

  void do_count_gains(ConstTensorView weight, ConstTensorView quantized, ConstTensorView fisher,
                      TensorView counts, TensorView sums) override {
    const FloatWeights weights = load_weights(context_, weight);
    count_error_gains(context_, errors_of(weights, quantized, fisher), counts, sums);
  }

  static CodebookErrors errors_of(const FloatWeights& weights, ConstTensorView quantized,
                                  ConstTensorView fisher) {
    return {weights.data, quantized.as<float>(), fisher.as<float>(), weights.elems()};
  }

  CudaContext& context_;
};

}  // namespace

}  // namespace quern::gpu

namespace quern {

std::unique_ptr<CodebookSolver> make_cuda_codebook_solver(CudaContext& context) {
  return std::make_unique<gpu::CudaCodebookSolver>(context);
}

}  // namespace quern
