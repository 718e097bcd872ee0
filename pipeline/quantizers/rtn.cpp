#include "pipeline/quantizers/rtn.h"

namespace quern {
namespace {

class Rtn final : public Quantizer {
 public:
  StatisticsNeeded needed() const noexcept override { return {}; }

  std::vector<SolvedModule> solve(Backend& backend, std::span<const ModuleTask> tasks,
                                  BundleStatistics&) const override {
    std::vector<SolvedModule> solved;
    for (const ModuleTask& task : tasks) {
      solved.push_back(
          {backend.solver().round_to_nearest(task.weight, task.grid, std::nullopt), 0.0, 0});
    }
    return solved;
  }
};

}  // namespace

std::unique_ptr<Quantizer> make_rtn(const QuantizeConfig&) {
  return std::make_unique<Rtn>();
}

}  // namespace quern
