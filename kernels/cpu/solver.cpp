#include "kernels/cpu/solver.h"

#include <numeric>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/cpu/blas.h"
#include "kernels/cpu/factorise.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/quadratic_error.h"
#include "kernels/cpu/row_solver.h"
#include "kernels/cpu/scratch.h"

namespace quern {
namespace {

class CpuSolver final : public Solver {
 public:
  CpuSolver(Memory& memory, int threads)
      : memory_(memory), threads_(threads), scratch_(memory, threads) {}

 private:
  std::vector<HessianFactor> do_factorise(std::span<const HessianTask> tasks) override {
    std::vector<HessianFactor> factors;
    for (const HessianTask& task : tasks) {
      factors.push_back(factorise_gram(memory_, task, threads_));
    }
    return factors;
  }

  std::vector<QuantizedTensor> do_gptq(std::span<const GridModule> modules,
                                       const HessianFactor& factor) override {
    const std::span order(factor.order.view().as<std::int32_t>(),
                          static_cast<std::size_t>(factor.order.shape().elems()));
    return solve_each(modules, order, factor.act_order, factor.feedback.view().as<double>(),
                      factor.weight.view().as<double>());
  }

  std::vector<QuantizedTensor> do_round_to_nearest(
      std::span<const GridModule> modules, std::optional<ConstTensorView> column_weight) override {
    std::vector<std::int32_t> order(static_cast<std::size_t>(modules.front().weight.shape[1]));
    std::iota(order.begin(), order.end(), 0);
    return solve_each(modules, order, ActOrder::none, nullptr,
                      column_weight ? column_weight->as<double>() : nullptr);
  }

  void do_dequantize(const QuantizedTensor& quantized, TensorView out) override {
    dequantize_codes(quantized, out, threads_);
  }

  void do_quadratic_error(ConstTensorView weight, ConstTensorView quantized, const GramView& gram,
                          TensorView result) override {
    quadratic_error_of_rows(memory_, {weight, quantized, gram, threads_}, result.as<double>());
  }

  void do_pack(ConstTensorView codes, int bits, TensorView out) override {
    pack_codes(codes, bits, out, threads_);
  }

  void do_unpack(ConstTensorView words, int bits, TensorView codes) override {
    unpack_codes(words, bits, codes, threads_);
  }

  std::vector<QuantizedTensor> solve_each(std::span<const GridModule> modules,
                                          std::span<const std::int32_t> order, ActOrder act_order,
                                          const double* feedback, const double* importance) {
    std::vector<QuantizedTensor> results;
    for (const GridModule& module : modules) {
      results.push_back(
          round_rows(memory_, scratch_,
                     {module, order, groups_in_order(order, act_order, module.grid.group_size),
                      feedback, importance},
                     threads_));
    }
    return results;
  }

  Memory& memory_;
  int threads_;
  Scratch scratch_;
};

}  // namespace

std::unique_ptr<Solver> make_cpu_solver(Memory& memory, int threads) {
  ensure(threads >= 1, "at least one thread");
  use_calling_thread_for_blas();
  return std::make_unique<CpuSolver>(memory, threads);
}

}  // namespace quern
