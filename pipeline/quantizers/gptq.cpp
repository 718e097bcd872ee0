#include "pipeline/quantizers/gptq.h"

#include <fmt/format.h>

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

  std::vector<SolvedModule> solve(Backend& backend, std::span<const ModuleTask> tasks,
                                  BundleStatistics& statistics) const override {
    ensure(statistics.gram.has_value(), "H for GPTQ");
    // One factor serves all, but a group_aware order is made for one group size.
    std::map<std::int64_t, std::vector<std::size_t>> alike;
    for (std::size_t i = 0; i < tasks.size(); ++i) {
      alike[order_ == ActOrder::group_aware ? tasks[i].grid.group_size : -1].push_back(i);
    }
    std::vector<SolvedModule> solved(tasks.size());
    for (const auto& [group_size, places] : alike) {
      std::vector<GridModule> modules;
      for (const std::size_t i : places) modules.push_back(tasks[i].on_grid());
      const HessianFactor factor =
          factorise(backend.solver(), statistics.gram->view(), group_size, modules.front().name);
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
  /// module: to name in errors, one of those that read the input.
  HessianFactor factorise(Solver& solver, const GramView& gram, std::int64_t group_size,
                          std::string_view module) const {
    try {
      return solver.factorise(gram, order_, group_size, damping_);
    } catch (const InputError& error) {
      throw InputError(fmt::format("module '{}': {}", module, error.what()));
    }
  }

  ActOrder order_;
  Damping damping_;
};

}  // namespace

std::unique_ptr<Quantizer> make_gptq(const QuantizeConfig& config) {
  return std::make_unique<Gptq>(config);
}

}  // namespace quern
