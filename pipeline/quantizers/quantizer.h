#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "pipeline/config/run_config.h"

namespace quern {

/// One module to be quantized. weight [N, K] on the device, the activation type.
struct ModuleTask {
  std::string name;  ///< for error messages
  ConstTensorView weight;
  GridSpec grid;
};

/// A module's codes on the device and what its solver says of them.
struct SolvedModule {
  QuantizedTensor tensor;
  double damping_fraction = 0.0;
  std::int64_t dead_columns = 0;
};

/// A method. Stateless but for its options; works on one bundle: modules that read one input.
class Quantizer {
 public:
  virtual ~Quantizer() = default;

  /// Whether solve() wants H = X^T X of the input.
  virtual bool needs_gram() const noexcept = 0;

  /// Solves the modules of one input. gram is present iff needs_gram(). Same order as the tasks.
  /// Throws InputError naming the module that cannot be quantized.
  virtual std::vector<SolvedModule> solve(Backend& backend, std::span<const ModuleTask> tasks,
                                          const std::optional<GramView>& gram) const = 0;
};

/// The quantizer of the configured method: the explicit table of methods.
std::unique_ptr<Quantizer> make_quantizer(const QuantizeConfig& config);

}  // namespace quern
