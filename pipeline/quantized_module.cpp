#include "pipeline/quantized_module.h"

#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "pipeline/model/packed_codes.h"

namespace quern {
namespace {

nlohmann::json describe(const QuantizedModule& module) {
  return {{"name", module.name},
          {"out_features", module.out_features},
          {"in_features", module.in_features},
          {"bits", module.bits},
          {"group_size", module.group_size},
          {"symmetric", module.symmetric},
          {"relative_error", module.metrics.relative_error},
          {"damping_fraction", module.metrics.damping_fraction},
          {"dead_columns", module.metrics.dead_columns},
          {"dequantized_hash", module.metrics.dequantized_hash}};
}

HostTensor array(const Bundle& bundle, const std::string& name) {
  const auto found = bundle.arrays.find(name);
  ensure(found != bundle.arrays.end(), "every array of a module in its bundle");
  return found->second;
}

QuantizedModule restore(const Bundle& bundle, const nlohmann::json& row) {
  QuantizedModule module;
  module.name = row.at("name");
  module.out_features = row.at("out_features");
  module.in_features = row.at("in_features");
  module.bits = row.at("bits");
  module.group_size = row.at("group_size");
  module.symmetric = row.at("symmetric");
  module.metrics = {row.at("relative_error"), row.at("damping_fraction"), row.at("dead_columns"),
                    row.at("dequantized_hash")};
  module.words = array(bundle, module.name + "/words");
  module.scales = array(bundle, module.name + "/scales");
  module.zeros = array(bundle, module.name + "/zeros");
  module.group_of = array(bundle, module.name + "/group_of");
  return module;
}

}  // namespace

Bundle to_bundle(std::span<const QuantizedModule> modules) {
  Bundle bundle;
  nlohmann::json rows = nlohmann::json::array();
  for (const QuantizedModule& module : modules) {
    rows.push_back(describe(module));
    bundle.arrays[module.name + "/words"] = module.words;
    bundle.arrays[module.name + "/scales"] = module.scales;
    bundle.arrays[module.name + "/zeros"] = module.zeros;
    bundle.arrays[module.name + "/group_of"] = module.group_of;
  }
  bundle.attributes = nlohmann::json{{"modules", rows}}.dump();
  return bundle;
}

std::vector<QuantizedModule> from_bundle(const Bundle& bundle) {
  const nlohmann::json attributes = nlohmann::json::parse(bundle.attributes, nullptr, false);
  ensure(attributes.is_object() && attributes.contains("modules"), "a bundle of modules");
  std::vector<QuantizedModule> modules;
  for (const nlohmann::json& row : attributes.at("modules"))
    modules.push_back(restore(bundle, row));
  return modules;
}

HostTensor dequantize_on_host(const QuantizedModule& module) {
  return decode_grid({module.words, module.scales, module.zeros, module.group_of, module.bits});
}

}  // namespace quern
