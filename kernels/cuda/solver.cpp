#include <numeric>
#include <vector>

#include "kernels/cuda/factorise.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/quadratic_error.h"
#include "kernels/cuda/row_solver.h"

namespace quern::gpu {
namespace {

/// Everything in float64, where an H200 is as fast as in float32; the scale search alone compares
/// its candidates in float32, rounding each step as the CPU does. So codes agree but for ties.
class CudaSolver final : public Solver {
 public:
  explicit CudaSolver(CudaContext& context) : context_(context) {}

 private:
  HessianFactor do_factorise(const GramView& gram, ActOrder order, std::int64_t group_size,
                             const Damping& damping) override {
    return factorise_gram(context_, gram, order, group_size, damping);
  }

  QuantizedTensor do_gptq(ConstTensorView weight, const HessianFactor& factor, const GridSpec& grid,
                          const RowRange& rows) override {
    // Only a group-aware order has to be looked at to know its groups.
    std::vector<std::int32_t> order = ascending(weight.shape[1]);
    if (factor.act_order == ActOrder::group_aware) {
      context_.memory.download(factor.order.view(), std::as_writable_bytes(std::span(order)));
      context_.memory.synchronize();
    }
    return round_rows(context_, {weight, factor.order.view().as<std::int32_t>(),
                                 groups_in_order(order, factor.act_order, grid.group_size),
                                 factor.feedback.view().as<double>(),
                                 factor.weight.view().as<double>(), grid, rows});
  }

  QuantizedTensor do_round_to_nearest(ConstTensorView weight, const GridSpec& grid,
                                      std::optional<ConstTensorView> column_weight) override {
    const std::vector<std::int32_t> order = ascending(weight.shape[1]);
    Tensor on_device = context_.memory.allocate(DType::i32, {weight.shape[1]});
    context_.memory.upload(std::as_bytes(std::span(order)), on_device.view());
    return round_rows(context_, {weight,
                                 on_device.view().as<std::int32_t>(),
                                 groups_in_order(order, ActOrder::none, grid.group_size),
                                 nullptr,
                                 column_weight ? column_weight->as<double>() : nullptr,
                                 grid,
                                 {0, weight.shape[0]}});
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
};

}  // namespace

}  // namespace quern::gpu

namespace quern {

std::unique_ptr<Solver> make_cuda_solver(CudaContext& context) {
  return std::make_unique<gpu::CudaSolver>(context);
}

}  // namespace quern
