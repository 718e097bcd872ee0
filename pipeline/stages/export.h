#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "pipeline/quantized_module.h"
#include "pipeline/run_context.h"

namespace quern {

/// What an export wrote.
struct ExportResult {
  std::filesystem::path folder;
  std::uint64_t bytes = 0;              ///< of all weight files
  std::uint64_t quantized_bytes = 0;    ///< of the tensors that stand for quantized modules
  std::uint64_t quantized_weights = 0;  ///< their number of weights
  bool already_there = false;           ///< an earlier run finished it

  double bits_per_weight() const noexcept {
    return quantized_weights == 0 ? 0.0
                                  : 8.0 * static_cast<double>(quantized_bytes) /
                                        static_cast<double>(quantized_weights);
  }
};

/// Throws ConfigError unless output.path is free, empty, or holds a finished export with the same
/// provenance. Called before the work starts, so that nothing is computed in vain. Any rank.
void check_output_folder(const std::filesystem::path& folder, const nlohmann::json& provenance);

/// Collective. Writes the quantized model: shards by all ranks into "<output.path>.partial", then
/// side files, configuration, provenance.json and SHA256SUMS by rank 0, then one rename of the
/// folder. The bytes depend on model, data and configuration alone.
/// modules: of the whole plan, in its order.
ExportResult export_model(RunContext& context, std::span<const ModuleSummary> modules,
                          const nlohmann::json& provenance);

}  // namespace quern
