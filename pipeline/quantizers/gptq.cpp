#include "pipeline/quantizers/gptq.h"

#include <map>

#include "kernels/core/error.h"

namespace quern {
namespace {

class Gptq final : public Quantizer {
 public:
  explicit Gptq(const QuantizeConfig& config)
      : order_(config.act_order), damping_{.fraction = config.damping} {}

  StatisticsNeeded needed() const noexcept override { return {.gram = true}; }

  bool splits_rows() const noexcept override { return true; }

  std::vector<HessianTask> factors_wanted(const InputTask& input) const override {
    ensure(input.statistics.gram.has_value(), "H for GPTQ");
    std::vector<HessianTask> wanted;
    for (const auto& [group_size, places] : alike(input.modules)) {
      wanted.push_back({input.modules[places.front()].name, input.statistics.gram->view(), order_,
                        group_size, damping_});
    }
    return wanted;
  }

  std::vector<SolvedModule> solve(Backend& backend, const InputTask& input,
                                  std::span<const HessianFactor> factors) const override {
    std::vector<SolvedModule> solved(input.modules.size());
    for (const auto& [group_size, places] : alike(input.modules)) {
      std::vector<GridModule> modules;
      for (const std::size_t i : places) modules.push_back(input.modules[i].on_grid());
      const HessianFactor& factor = factors.front();
      factors = factors.subspan(1);
      std::vector<QuantizedTensor> tensors = backend.solver().gptq(modules, factor);
      for (std::size_t i = 0; i < places.size(); ++i) {
        solved[places[i]] = {.tensor = std::move(tensors[i]),
                             .damping_fraction = factor.damping_fraction,
                             .dead_columns = factor.dead_columns};
      }
    }
    return solved;
  }

 private:
  /// Places of the modules that one factor serves, by the group size that it is made for: all of
  /// them, but for a group_aware order.
  std::map<std::int64_t, std::vector<std::size_t>> alike(
      std::span<const ModuleTask> modules) const {
    std::map<std::int64_t, std::vector<std::size_t>> places;
    for (std::size_t i = 0; i < modules.size(); ++i) {
      places[order_ == ActOrder::group_aware ? modules[i].grid.group_size : -1].push_back(i);
    }
    return places;
  }

  ActOrder order_;
  Damping damping_;
};

}  // namespace

std::unique_ptr<Quantizer> make_gptq(const QuantizeConfig& config) {
  return std::make_unique<Gptq>(config);
}

}  // namespace quern
