#include "pipeline/quantized_module.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/core/error.h"
#include "pipeline/model/packed_codes.h"

namespace quern {
namespace {

constexpr const char* kGrid = "uniform";
constexpr const char* kCodebook = "codebook";

bool on_grid(const QuantizedModule& module) {
  return std::holds_alternative<UniformGrid>(module.values);
}

nlohmann::json describe(const QuantizedModule& module) {
  const ModuleMetrics& metrics = module.metrics;
  return {{"name", module.name},
          {"values", on_grid(module) ? kGrid : kCodebook},
          {"out_features", module.out_features},
          {"in_features", module.in_features},
          {"bits", module.bits},
          {"group_size", module.group_size},
          {"symmetric", module.symmetric},
          {"outliers", module.outliers},
          {"table_dtype", module.table_dtype == DType::f16 ? "float16" : "float32"},
          {"relative_error", metrics.relative_error},
          {"objective", metrics.objective},
          {"damping_fraction", metrics.damping_fraction},
          {"dead_columns", metrics.dead_columns},
          {"uninformed_rows", metrics.uninformed_rows},
          {"dequantized_hash", metrics.dequantized_hash}};
}

/// The arrays of a module, one by one: names and places, the same for both directions.
template <typename Module, typename Visit>
void visit_arrays(Module& module, Visit visit) {
  visit("words", module.words);
  if (auto* grid = std::get_if<UniformGrid>(&module.values)) {
    visit("scales", grid->scales);
    visit("zeros", grid->zeros);
    visit("group_of", grid->group_of);
  } else if (auto* codebook = std::get_if<Codebook>(&module.values)) {
    visit("table", codebook->table);
    visit("rows", codebook->rows);
    visit("cols", codebook->cols);
    visit("vals", codebook->vals);
  }
}

PackedGrid packed_grid(const QuantizedModule& module) {
  const auto& grid = std::get<UniformGrid>(module.values);
  return {module.words, grid.scales, grid.zeros, grid.group_of, module.bits};
}

PackedCodebook packed_codebook(const QuantizedModule& module) {
  const auto& codebook = std::get<Codebook>(module.values);
  return {module.words,  codebook.table,     codebook.rows, codebook.cols,
          codebook.vals, module.in_features, module.bits};
}

}  // namespace

nlohmann::json summary_rows(const std::string& attributes) {
  const nlohmann::json json = nlohmann::json::parse(attributes, nullptr, false);
  ensure(json.is_object() && json.contains("modules"), "a bundle of modules");
  return json.at("modules");
}

ModuleSummary read_summary(const nlohmann::json& row) {
  ModuleSummary summary;
  summary.name = row.at("name");
  summary.out_features = row.at("out_features");
  summary.in_features = row.at("in_features");
  summary.bits = row.at("bits");
  summary.group_size = row.at("group_size");
  summary.symmetric = row.at("symmetric");
  summary.outliers = row.at("outliers");
  summary.table_dtype = row.at("table_dtype") == "float16" ? DType::f16 : DType::f32;
  summary.metrics = {.relative_error = row.at("relative_error"),
                     .objective = row.at("objective"),
                     .damping_fraction = row.at("damping_fraction"),
                     .dead_columns = row.at("dead_columns"),
                     .uninformed_rows = row.at("uninformed_rows"),
                     .dequantized_hash = row.at("dequantized_hash")};
  return summary;
}

Bundle to_bundle(std::vector<QuantizedModule> modules) {
  Bundle bundle;
  nlohmann::json rows = nlohmann::json::array();
  for (QuantizedModule& module : modules) {
    rows.push_back(describe(module));
    visit_arrays(module, [&](const char* name, HostTensor& array) {
      bundle.arrays[module.name + "/" + name] = std::move(array);
    });
  }
  bundle.attributes = nlohmann::json{{"modules", rows}}.dump();
  return bundle;
}

std::vector<QuantizedModule> from_bundle(Bundle bundle) {
  std::vector<QuantizedModule> modules;
  const nlohmann::json rows = summary_rows(bundle.attributes);
  for (const nlohmann::json& row : rows) {
    QuantizedModule module;
    static_cast<ModuleSummary&>(module) = read_summary(row);
    if (row.at("values") == kCodebook) module.values = Codebook{};
    visit_arrays(module, [&](const char* name, HostTensor& array) {
      const auto found = bundle.arrays.find(module.name + "/" + name);
      ensure(found != bundle.arrays.end(), "every array of a module in its bundle");
      array = std::move(found->second);
    });
    modules.push_back(std::move(module));
  }
  return modules;
}

std::string fingerprint_text(std::uint64_t fingerprint) {
  return fmt::format("{:016x}", fingerprint);
}

HostTensor dequantize_on_host(const QuantizedModule& module) {
  if (on_grid(module)) return decode_grid(packed_grid(module));
  return decode_codebook(packed_codebook(module));
}

void dequantize_on_host(const QuantizedModule& module, const TakeValues& take) {
  if (on_grid(module)) return decode_grid(packed_grid(module), take);
  decode_codebook(packed_codebook(module), take);
}

}  // namespace quern
