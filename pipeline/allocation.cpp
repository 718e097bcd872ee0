#include "pipeline/allocation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "pipeline/model_budget.h"

namespace quern {
namespace {

constexpr double kOutlierBits = 64.0;  // a float value and a column index
constexpr int kPriceSteps = 200;

std::int64_t weights_of(const ModuleCurves& module) {
  return module.out_features * module.in_features;
}

/// The lower edge of a gain bin.
double gain_of(std::size_t bin) {
  return std::exp2((static_cast<double>(bin) - static_cast<double>(CodebookSolver::gain_offset)) /
                   4.0);
}

/// A module at one bit width and one price.
struct Offer {
  double objective = 0.0;
  double bits = 0.0;  ///< in the file
  std::int64_t outliers = 0;
};

Offer offer(const ModuleCurves& module, const ErrorCurve& curve, const BitBudget& budget,
            double price) {
  const auto rows = static_cast<double>(module.out_features);
  Offer result{
      curve.objective,
      dense_bits(module.out_features, module.in_features, curve.bits, budget.table_entry_bits), 0};
  const auto limit =
      static_cast<std::int64_t>(budget.outlier_fraction * static_cast<double>(weights_of(module)));
  for (std::size_t bin = curve.counts.size(); bin-- > 0 && result.outliers < limit;) {
    if (gain_of(bin) < kOutlierBits * price) break;
    if (curve.counts[bin] == 0) continue;
    const std::int64_t taken = std::min(curve.counts[bin], limit - result.outliers);
    result.outliers += taken;
    result.objective -=
        curve.sums[bin] * static_cast<double>(taken) / static_cast<double>(curve.counts[bin]);
  }
  if (result.outliers > 0) {
    result.bits += kOutlierBits * static_cast<double>(result.outliers) + 32.0 * (rows + 1.0);
  }
  return result;
}

Offer offer(const FusedModules& group, std::size_t choice, const BitBudget& budget, double price) {
  Offer total;
  for (const ModuleCurves& module : group) {
    const Offer one = offer(module, module.curves[choice], budget, price);
    total.objective += one.objective;
    total.bits += one.bits;
  }
  return total;
}

/// The index of the curve that costs least, error and priced bits together.
std::size_t best_choice(const FusedModules& group, const BitBudget& budget, double price) {
  std::size_t best = 0;
  double least = INFINITY;
  for (std::size_t choice = 0; choice < group.front().curves.size(); ++choice) {
    const Offer candidate = offer(group, choice, budget, price);
    const double cost = candidate.objective + price * candidate.bits;
    if (cost < least) {
      least = cost;
      best = choice;
    }
  }
  return best;
}

struct Choices {
  std::vector<std::size_t> of_group;
  double bits = 0.0;
};

Choices choose(std::span<const FusedModules> model, const BitBudget& budget, double price) {
  Choices choices;
  for (const FusedModules& group : model) {
    choices.of_group.push_back(best_choice(group, budget, price));
    choices.bits += offer(group, choices.of_group.back(), budget, price).bits;
  }
  return choices;
}

/// Moves groups up by one choice, the best gain per bit first, while what is left suffices.
void spend_the_rest(std::span<const FusedModules> model, const BitBudget& budget, double price,
                    double limit, Choices& choices) {
  while (true) {
    std::optional<std::size_t> best;
    double best_ratio = 0.0;
    double best_bits = 0.0;
    for (std::size_t g = 0; g < model.size(); ++g) {
      const std::size_t now = choices.of_group[g];
      if (now + 1 >= model[g].front().curves.size()) continue;
      const Offer before = offer(model[g], now, budget, price);
      const Offer after = offer(model[g], now + 1, budget, price);
      const double more = after.bits - before.bits;
      const double ratio = (before.objective - after.objective) / more;
      if (more <= 0.0 || choices.bits + more > limit || ratio <= best_ratio) continue;
      best = g;
      best_ratio = ratio;
      best_bits = more;
    }
    if (!best) return;
    ++choices.of_group[*best];
    choices.bits += best_bits;
  }
}

}  // namespace

ModuleTask make_task(const PlannedModule& planned, ConstTensorView weight,
                     const QuantizeConfig& config, const Allocation& allocation) {
  const Sparsity& sparsity = config.sparsity;
  const auto weights = static_cast<double>(weight.elems());
  ModuleTask task{planned.module.name, weight, planned.grid, {}};
  task.outliers.rule = {std::llround(sparsity.sensitive * weights), allocation.quartile_range};
  const auto allocated = allocation.modules.find(task.name);
  if (allocated != allocation.modules.end()) {
    task.grid.bits = allocated->second.bits;
    task.outliers.joint = allocated->second.outliers;
  } else if (sparsity.rule == OutlierSelection::joint && sparsity.total() > 0.0) {
    task.outliers.joint = std::llround(sparsity.total() * weights);
  }
  if (task.outliers.joint == 0) task.outliers = {};
  return task;
}

std::optional<double> quartile_range_for(std::span<const std::int64_t> counts,
                                         std::int64_t budget) {
  std::int64_t beyond = 0;
  std::size_t bin = counts.size();
  while (bin > 0 && beyond + counts[bin - 1] <= budget) beyond += counts[--bin];
  if (bin == counts.size()) return std::nullopt;  // the last bin has no upper end
  return static_cast<double>(bin) * CodebookSolver::range_step;
}

std::map<std::string, ModuleAllocation> allocate_outliers(std::span<const FusedModules> model,
                                                          std::int64_t outliers) {
  std::map<std::string, ModuleAllocation> result;
  for (const FusedModules& group : model) {
    for (const ModuleCurves& module : group) result[module.name].bits = module.curves[0].bits;
  }
  for (auto bin = static_cast<std::size_t>(CodebookSolver::gain_bins); bin-- > 0 && outliers > 0;) {
    std::int64_t in_bin = 0;
    for (const FusedModules& group : model) {
      for (const ModuleCurves& module : group) in_bin += module.curves[0].counts[bin];
    }
    const std::int64_t taken = std::min(in_bin, outliers);
    std::int64_t seen = 0;
    std::int64_t given = 0;
    for (const FusedModules& group : model) {
      for (const ModuleCurves& module : group) {
        // The share of everything up to this module, so that rounding never adds up.
        seen += module.curves[0].counts[bin];
        const std::int64_t due =
            seen == in_bin
                ? taken
                : static_cast<std::int64_t>(static_cast<double>(taken) * static_cast<double>(seen) /
                                            static_cast<double>(in_bin));
        result[module.name].outliers += due - given;
        given = due;
      }
    }
    outliers -= taken;
  }
  return result;
}

std::map<std::string, ModuleAllocation> allocate_bits(std::span<const FusedModules> model,
                                                      const BitBudget& budget) {
  const auto weights = static_cast<double>(budget.weights);
  double high = 1.0;  // above every error: nothing is worth a bit
  for (const FusedModules& group : model) {
    for (const ModuleCurves& module : group) {
      for (const ErrorCurve& curve : module.curves) high += curve.objective;
    }
  }
  const double limit = budget.target_bits * weights;
  double low = gain_of(0) / 1e6;
  if (const double fewest = choose(model, budget, high).bits; fewest > limit) {
    throw ConfigError(
        fmt::format("quantize.target_bits: {} bits per weight cannot be met; with the fewest bits, "
                    "tables included, it is {:.3f}",
                    budget.target_bits, fewest / weights));
  }
  for (int step = 0; step < kPriceSteps; ++step) {
    const double middle = std::sqrt(low * high);
    (choose(model, budget, middle).bits <= limit ? high : low) = middle;
  }
  Choices choices = choose(model, budget, high);
  spend_the_rest(model, budget, high, limit, choices);
  std::map<std::string, ModuleAllocation> result;
  for (std::size_t g = 0; g < model.size(); ++g) {
    for (const ModuleCurves& module : model[g]) {
      const ErrorCurve& curve = module.curves[choices.of_group[g]];
      result[module.name] = {curve.bits, offer(module, curve, budget, high).outliers};
    }
  }
  return result;
}

nlohmann::json to_json(const Allocation& allocation) {
  nlohmann::json modules = nlohmann::json::object();
  for (const auto& [name, module] : allocation.modules) {
    modules[name] = {{"bits", module.bits}, {"outliers", module.outliers}};
  }
  nlohmann::json json = {{"modules", modules}, {"quartile_range", nullptr}};
  if (allocation.quartile_range) json["quartile_range"] = *allocation.quartile_range;
  return json;
}

Allocation read_allocation(const nlohmann::json& json) {
  Allocation allocation;
  if (!json.at("quartile_range").is_null()) {
    allocation.quartile_range = json.at("quartile_range").get<double>();
  }
  for (const auto& [name, module] : json.at("modules").items()) {
    allocation.modules[name] = {module.at("bits"), module.at("outliers")};
  }
  return allocation;
}

}  // namespace quern
