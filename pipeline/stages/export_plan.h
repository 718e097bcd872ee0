#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pipeline/exporters/exporter.h"
#include "pipeline/run_context.h"

namespace quern {

/// Tensors of the output that come from one place: a quantized module, or one source tensor.
struct OutputItem {
  std::optional<ModuleSummary> module;  ///< empty: passed on from the source
  std::string source;                   ///< name of the source tensor
  DType source_dtype = DType::f32;
  std::vector<TensorSpec> specs;

  std::uint64_t bytes() const;
};

/// The items of one output file.
struct OutputShard {
  std::string file_name;
  std::vector<OutputItem> items;
};

/// Whether the sizes of quantized modules are known before they are solved: not where numbers of
/// bits or outliers are results. Pure.
bool has_known_sizes(const QuantizeConfig& config);

/// What is known of each module before it is solved, in order of the plan: all but its metrics and,
/// unless has_known_sizes(), its bits and outliers. Pure.
std::vector<ModuleSummary> summaries_ahead(const Plan& plan, const QuantizeConfig& config);

/// All tensors of the output in checkpoint order: one torch file, or safetensors files of at most
/// `shard_bytes` (an item is never cut). Pure: the same for any number of ranks.
std::vector<OutputShard> plan_shards(const RunContext& context, const Exporter& exporter,
                                     std::span<const ModuleSummary> modules);

}  // namespace quern
