#include "pipeline/stages/export_plan.h"

#include <fmt/format.h>

#include <map>

namespace quern {
namespace {

using ModuleMap = std::map<std::string, const ModuleSummary*>;

OutputItem make_item(const RunContext& context, const Exporter& exporter, const ModuleMap& modules,
                     const TensorNode& node) {
  OutputItem item;
  item.source = node.name;
  const DType stored = context.model.tensors->entry(node.name).dtype;
  item.source_dtype = is_plain_float(stored) ? stored : context.model.graph.geometry.dtype;
  const auto module = modules.find(node.name.substr(0, node.name.rfind('.')));
  if (module == modules.end()) {
    item.specs.push_back({node.name, item.source_dtype, node.shape});
  } else if (node.part == Part::bias) {
    item.specs.push_back({node.name, exporter.bias_dtype(item.source_dtype), node.shape});
  } else {
    item.module = *module->second;
    item.specs = exporter.specs(*module->second, item.source_dtype);
  }
  return item;
}

std::vector<OutputItem> all_items(const RunContext& context, const Exporter& exporter,
                                  std::span<const ModuleSummary> summaries) {
  ModuleMap modules;
  for (const ModuleSummary& summary : summaries) modules[summary.name] = &summary;
  const ModelGraph& graph = context.model.graph;
  std::vector<OutputItem> items;
  const auto add = [&](const TensorNode& node) {
    items.push_back(make_item(context, exporter, modules, node));
  };
  add(graph.tensor(Role::embedding));
  for (const LayerGraph& layer : graph.layers) {
    for (const TensorNode& node : layer.tensors) add(node);
  }
  for (const TensorNode& node : graph.tensors) {
    if (node.role != Role::embedding) add(node);
  }
  return items;
}

}  // namespace

std::uint64_t OutputItem::bytes() const {
  std::uint64_t total = 0;
  for (const TensorSpec& spec : specs) {
    total += static_cast<std::uint64_t>(spec.shape.elems()) * dtype_bytes(spec.dtype);
  }
  return total;
}

bool has_known_sizes(const QuantizeConfig& config) {
  return config.method != Method::squeezellm ||
         (!config.target_bits && config.sparsity.total() == 0.0);
}

std::vector<ModuleSummary> summaries_ahead(const Plan& plan, const QuantizeConfig& config) {
  const bool codebooks = config.method == Method::squeezellm;
  std::vector<ModuleSummary> summaries;
  for (const BundleUnit* bundle : plan.stored_bundles()) {
    for (const auto& [module, grid] : bundle->modules) {
      ModuleSummary summary;
      summary.name = module.name;
      summary.out_features = module.out_features;
      summary.in_features = module.in_features;
      summary.bits = grid.bits;
      summary.group_size = codebooks ? -1 : grid.group_size;
      summary.symmetric = grid.symmetric;
      if (config.codebook_type == CodebookType::float16) summary.table_dtype = DType::f16;
      summaries.push_back(std::move(summary));
    }
  }
  return summaries;
}

std::vector<OutputShard> plan_shards(const RunContext& context, const Exporter& exporter,
                                     std::span<const ModuleSummary> modules) {
  std::vector<OutputShard> shards(1);
  std::uint64_t filled = 0;
  for (OutputItem& item : all_items(context, exporter, modules)) {
    const std::uint64_t bytes = item.bytes();
    if (exporter.container() == Container::safetensors && filled > 0 &&
        filled + bytes > context.config.output.shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    filled += bytes;
    shards.back().items.push_back(std::move(item));
  }
  if (exporter.container() == Container::torch) {
    shards[0].file_name = "squeezellm.pt";
    return shards;
  }
  for (std::size_t i = 0; i < shards.size(); ++i) {
    shards[i].file_name =
        shards.size() == 1 ? "model.safetensors"
                           : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
  }
  return shards;
}

}  // namespace quern
