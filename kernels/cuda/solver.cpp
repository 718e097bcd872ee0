#include <numeric>
#include <vector>

#include "kernels/cuda/factorise.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/quadratic_error.h"
#include "kernels/cuda/row_solver.h"
#include "kernels/cuda_backend.h"

namespace quern::gpu {
namespace {

/// Everything in float64, where an H200 is as fast as in float32; the scale search alone compares
/// its candidates in float32, rounding each step as the CPU does. So codes agree but for ties.
class CudaSolver final : public Solver {
 public:
  explicit CudaSolver(CudaContext& context) : context_(context), cholesky_(context) {}

  std::size_t factors_at_once(std::int64_t columns) const noexcept override {
    return cuda_factors_at_once(columns);
  }

 private:
  std::vector<HessianFactor> do_factorise(std::span<const HessianTask> tasks) override {
    return factorise_grams(context_, cholesky_, tasks);
  }

  std::vector<QuantizedTensor> do_gptq(std::span<const GridModule> modules,
                                       const HessianFactor& factor) override {
    // Only a group-aware order has to be looked at to know its groups.
    std::vector<std::int32_t> steps = ascending(factor.order.shape()[0]);
    if (factor.act_order == ActOrder::group_aware) {
      context_.memory.download(factor.order.view(), std::as_writable_bytes(std::span(steps)));
      context_.memory.synchronize();
    }
    return round_rows(context_,
                      {modules, steps, factor.order.view().as<std::int32_t>(), factor.act_order,
                       factor.feedback.view().as<double>(), factor.weight.view().as<double>()});
  }

  std::vector<QuantizedTensor> do_round_to_nearest(
      std::span<const GridModule> modules, std::optional<ConstTensorView> column_weight) override {
    const std::vector<std::int32_t> steps = ascending(modules.front().weight.shape[1]);
    Tensor order = context_.memory.allocate(DType::i32, {modules.front().weight.shape[1]});
    context_.memory.upload(std::as_bytes(std::span(steps)), order.view());
    return round_rows(context_, {modules, steps, order.view().as<std::int32_t>(), ActOrder::none,
                                 nullptr, column_weight ? column_weight->as<double>() : nullptr});
  }

  void do_dequantize(const QuantizedTensor& quantized, TensorView out) override {
    dequantize_codes(context_, quantized, out);
  }

  void do_quadratic_error(ConstTensorView weight, ConstTensorView quantized, const GramView& gram,
                          TensorView result) override {
    quadratic_error_of_rows(context_, {weight, quantized, gram}, result.as<double>());
  }

  void do_pack(ConstTensorView codes, int bits, TensorView out) override {
    pack_codes(context_, codes, bits, out);
  }

  void do_unpack(ConstTensorView words, int bits, TensorView codes) override {
    unpack_codes(context_, words, bits, codes);
  }

  static std::vector<std::int32_t> ascending(std::int64_t columns) {
    std::vector<std::int32_t> order(static_cast<std::size_t>(columns));
    std::iota(order.begin(), order.end(), 0);
    return order;
  }

  CudaContext& context_;
  Cholesky cholesky_;
};

}  // namespace

}  // namespace quern::gpu

namespace quern {

std::unique_ptr<Solver> make_cuda_solver(CudaContext& context) {
  return std::make_unique<gpu::CudaSolver>(context);
}

}  // namespace quern
