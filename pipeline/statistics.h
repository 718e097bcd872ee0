#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "kernels/core/tensor.h"
#include "kernels/memory.h"
#include "kernels/statistics_ops.h"

namespace quern {

/// What calibration can measure.
enum class Statistic : std::uint8_t {
  gram,    ///< H = X^T X of an input
  fisher,  ///< F of every module of an input
  guided   ///< per module, H with each token weighted by the mean squared gradient at the output
};

/// Which of them a method wants.
struct StatisticsNeeded {
  bool gram = false;
  bool fisher = false;
  bool guided = false;

  bool any() const noexcept { return gram || fisher || guided; }
  bool backward() const noexcept { return fisher || guided; }
};

/// X^T X while and after it is summed.
struct Gram {
  Tensor sums;       ///< [K, K] i64
  Tensor exponents;  ///< [K] i32
  Tensor overflow;   ///< [1] i64

  GramView view() { return {sums.view(), exponents.view(), overflow.view()}; }
};

/// All zero, for `features` channels.
Gram make_gram(Memory& memory, std::int64_t features);

struct ModuleStatistics {
  std::optional<Tensor> fisher;  ///< [N, K] f32
  std::optional<Gram> guided;
};

/// The statistics of one input and the modules that read it, on their owner's device.
struct BundleStatistics {
  std::optional<Gram> gram;
  std::map<std::string, ModuleStatistics> modules;  ///< by module name
};

}  // namespace quern
