#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "kernels/backend.h"
#include "pipeline/config/run_config.h"
#include "pipeline/statistics.h"

namespace quern {

/// How many weights of a module are kept exactly, and which.
struct OutlierChoice {
  OutlierRule rule;                   ///< of SqueezeLLM's paper
  std::optional<std::int64_t> joint;  ///< as many as this, chosen jointly with the codebook instead
};

/// One module to be quantized. weight [N, K] on the device, the activation type.
struct ModuleTask {
  std::string name;  ///< for error messages, and to find its statistics
  ConstTensorView weight;
  GridSpec grid;  ///< only its bits where values come from codebooks
  OutlierChoice outliers;
  RowRange rows = {};  ///< to be solved; the others stay 0 (only where the method splits_rows())

  GridModule on_grid() const { return {name, weight, grid, rows}; }
};

/// Modules that read one input, and what was measured of it.
struct InputTask {
  std::span<const ModuleTask> modules;
  BundleStatistics& statistics;  ///< what needed() asks for
};

/// A module's codes on the device and what its solver says of them.
struct SolvedModule {
  std::variant<QuantizedTensor, CodebookTensor> tensor;
  double damping_fraction = 0.0;
  std::int64_t dead_columns = 0;
  std::int64_t uninformed_rows = 0;
};

/// A method. Stateless but for its options; works on the modules of one input.
class Quantizer {
 public:
  virtual ~Quantizer() = default;

  /// The statistics that solve() wants.
  virtual StatisticsNeeded needed() const noexcept = 0;

  /// Whether rows of a module may be solved apart from the others, so that ranks share a module.
  virtual bool splits_rows() const noexcept { return false; }

  /// The factors of H that solve() wants; they are made for several inputs at once.
  virtual std::vector<HessianTask> factors_wanted(const InputTask& /*input*/) const { return {}; }

  /// Solves the modules of one input, results in their order. factors: those wanted, in that order.
  /// Throws InputError naming the module that cannot be quantized.
  virtual std::vector<SolvedModule> solve(Backend& backend, const InputTask& input,
                                          std::span<const HessianFactor> factors) const = 0;
};

/// The quantizer of the configured method: the explicit table of methods.
std::unique_ptr<Quantizer> make_quantizer(const QuantizeConfig& config);

}  // namespace quern
