#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pipeline/config/run_config.h"
#include "pipeline/plan.h"
#include "pipeline/quantizers/quantizer.h"

namespace quern {

/// What one module gets where bits or outliers are decided over the whole model.
struct ModuleAllocation {
  int bits = 0;
  std::int64_t outliers = 0;

  bool operator==(const ModuleAllocation&) const = default;
};

/// What is decided over the whole model before any of it is solved. Empty where nothing is.
struct Allocation {
  std::optional<double> quartile_range;             ///< of the paper's rule
  std::map<std::string, ModuleAllocation> modules;  ///< by module name

  bool operator==(const Allocation&) const = default;
};

/// The solver's task for a module: its settings, and its part of what was allocated.
ModuleTask make_task(const PlannedModule& planned, ConstTensorView weight,
                     const QuantizeConfig& config, const Allocation& allocation);

/// How the error of a module depends on what it gets, at one bit width, without outliers.
struct ErrorCurve {
  int bits = 0;
  double objective = 0.0;  ///< sum F (w - q)^2
  std::vector<std::int64_t>
      counts;  ///< entries of F (w - q)^2 by size, CodebookSolver::count_gains
  std::vector<double> sums;
};

struct ModuleCurves {
  std::string name;
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;
  std::vector<ErrorCurve> curves;  ///< ascending bits, the same for all modules
};

/// Modules that servers fuse, which therefore share their bits.
using FusedModules = std::vector<ModuleCurves>;

/// The smallest quartile range that leaves at most `budget` weights beyond it; absent where more
/// lie beyond every range that is counted. counts as made by CodebookSolver::count_ranges.
std::optional<double> quartile_range_for(std::span<const std::int64_t> counts, std::int64_t budget);

/// `outliers` weights of largest F (w - q)^2 of the whole model, as counts per module. Every module
/// has one curve.
std::map<std::string, ModuleAllocation> allocate_outliers(std::span<const FusedModules> model,
                                                          std::int64_t outliers);

/// A limit on what the file may hold.
struct BitBudget {
  std::int64_t weights = 0;       ///< of the model
  double target_bits = 0.0;       ///< mean per weight; codes, tables and outliers
  int table_entry_bits = 32;      ///< of a stored centroid
  double outlier_fraction = 0.0;  ///< at most, of each module's weights
};

/// Bits and outliers of least total error within the budget: at a common price per bit each group
/// takes its best choice, and the price is lowered until the budget is met; then single groups move
/// up while something is left (Shoham and Gersho 1988). Throws ConfigError if even the fewest bits
/// exceed the budget.
std::map<std::string, ModuleAllocation> allocate_bits(std::span<const FusedModules> model,
                                                      const BitBudget& budget);

/// To and from the form that is stored.
nlohmann::json to_json(const Allocation& allocation);
Allocation read_allocation(const nlohmann::json& json);

}  // namespace quern
