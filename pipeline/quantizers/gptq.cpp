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
    const GramView gram = statistics.gram->view();
    std::map<std::int64_t, HessianFactor> factors;  // one, unless group_aware meets two group sizes
    std::vector<SolvedModule> solved;
    for (const ModuleTask& task : tasks) {
      const std::int64_t key = order_ == ActOrder::group_aware ? task.grid.group_size : -1;
      try {
        auto factor = factors.find(key);
        if (factor == factors.end()) {
          factor =
              factors.emplace(key, backend.solver().factorise(gram, order_, key, damping_)).first;
        }
        solved.push_back({backend.solver().gptq(task.weight, factor->second, task.grid, task.rows),
                          factor->second.damping_fraction, factor->second.dead_columns});
      } catch (const InputError& error) {
        throw InputError(fmt::format("module '{}': {}", task.name, error.what()));
      }
    }
    return solved;
  }

 private:
  ActOrder order_;
  Damping damping_;
};

}  // namespace

std::unique_ptr<Quantizer> make_gptq(const QuantizeConfig& config) {
  return std::make_unique<Gptq>(config);
}

}  // namespace quern
