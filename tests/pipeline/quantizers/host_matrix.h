#pragma once

#include <variant>
#include <vector>

#include "kernels/core/tensor.h"
#include "pipeline/quantizers/quantizer.h"

namespace quern::test {

inline HostTensor host_matrix(const std::vector<std::vector<float>>& rows) {
  HostTensor tensor(DType::f32, {static_cast<std::int64_t>(rows.size()),
                                 static_cast<std::int64_t>(rows.front().size())});
  std::size_t i = 0;
  for (const auto& row : rows) {
    for (const float value : row) tensor.as<float>()[i++] = value;
  }
  return tensor;
}

/// The defaults of a method.
inline QuantizeConfig config_of(Method method) {
  QuantizeConfig config;
  config.method = method;
  return config;
}

/// The result of a method that rounds to a uniform grid.
inline const QuantizedTensor& on_grid(const SolvedModule& solved) {
  return std::get<QuantizedTensor>(solved.tensor);
}

/// What a method makes of the modules of one input.
inline std::vector<SolvedModule> solve(const Quantizer& quantizer, Backend& backend,
                                       std::span<const ModuleTask> tasks,
                                       BundleStatistics& statistics) {
  const InputTask input{tasks, statistics};
  const auto factors = backend.solver().factorise(quantizer.factors_wanted(input));
  return quantizer.solve(backend, input, factors);
}

}  // namespace quern::test
