#include "pipeline/quantizers/rtn.h"

namespace quern {
namespace {

class Rtn final : public Quantizer {
 public:
  StatisticsNeeded needed() const noexcept override { return {}; }

  std::vector<SolvedModule> solve(Backend& backend, const InputTask& input,
                                  std::span<const HessianFactor>) const override {
    std::vector<GridModule> modules;
    for (const ModuleTask& task : input.modules) modules.push_back(task.on_grid());
    std::vector<SolvedModule> solved;
    for (QuantizedTensor& tensor : backend.solver().round_to_nearest(modules, std::nullopt)) {
      solved.push_back({.tensor = std::move(tensor)});
    }
    return solved;
  }
};

}  // namespace

std::unique_ptr<Quantizer> make_rtn(const QuantizeConfig&) {
  return std::make_unique<Rtn>();
}

}  // namespace quern
