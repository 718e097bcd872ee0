#include "pipeline/exporters/squeezellm.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "kernels/core/error.h"

namespace quern {
namespace {

/// The width of most modules, of equally frequent ones the smaller.
int prevailing_bits(const ExportedModel& model) {
  std::map<int, std::int64_t> modules_of;
  for (const ModuleSummary& module : model.modules) ++modules_of[module.bits];
  if (modules_of.empty()) return model.config.grid.bits;
  const auto first = [](const auto& a, const auto& b) { return a.second < b.second; };
  return std::ranges::max_element(modules_of, first)->first;
}

bool has_outliers(const ExportedModel& model) {
  const auto some = [](const ModuleSummary& module) { return module.outliers > 0; };
  return std::ranges::any_of(model.modules, some);
}

class SqueezellmExporter final : public Exporter {
 public:
  explicit SqueezellmExporter(Container container) : container_(container) {}

  std::vector<TensorSpec> specs(const ModuleSummary& module, DType) const override {
    const std::int64_t n = module.out_features;
    const std::int64_t words = (module.in_features * module.bits + 31) / 32;
    std::vector<TensorSpec> specs = {
        {module.name + ".qweight", DType::i32, {words, n}},
        {module.name + ".lookup_table", module.table_dtype, {n, std::int64_t{1} << module.bits}}};
    if (module.outliers == 0) return specs;
    specs.push_back({module.name + ".rows", DType::i32, {n + 1}});
    specs.push_back({module.name + ".cols", DType::i32, {module.outliers}});
    specs.push_back({module.name + ".vals", DType::f32, {module.outliers}});
    return specs;
  }

  std::vector<NamedTensor> tensors(QuantizedModule module, DType) const override {
    auto* codebook = std::get_if<Codebook>(&module.values);
    ensure(codebook != nullptr, "a module with a table of values for the squeezellm formats");
    std::vector<NamedTensor> result;
    result.push_back({module.name + ".qweight", std::move(module.words)});
    result.push_back(
        {module.name + ".lookup_table", converted(std::move(codebook->table), module.table_dtype)});
    if (module.outliers == 0) return result;
    result.push_back({module.name + ".rows", std::move(codebook->rows)});
    result.push_back({module.name + ".cols", std::move(codebook->cols)});
    result.push_back({module.name + ".vals", std::move(codebook->vals)});
    return result;
  }

  DType bias_dtype(DType model_dtype) const override { return model_dtype; }
  Container container() const override { return container_; }

  /// SqueezeLLM's loader sizes the sparse parts by these numbers, and wants all or none of them.
  std::vector<NamedScalar> scalars(const ExportedModel& model) const override {
    std::vector<NamedScalar> result;
    if (container_ != Container::torch || !has_outliers(model)) return result;
    for (const ModuleSummary& module : model.modules) {
      result.push_back({"sparse_threshold." + module.name, module.outliers});
    }
    return result;
  }

  nlohmann::ordered_json quantization_config(const ExportedModel& model) const override {
    if (container_ == Container::torch) return nullptr;
    const int bits = prevailing_bits(model);
    nlohmann::ordered_json json = {{"quant_method", "squeezellm"},
                                   {"wbits", bits},
                                   {"bits", bits},
                                   {"include_sparse", has_outliers(model)}};
    nlohmann::ordered_json deviating = nlohmann::ordered_json::object();
    for (const ModuleSummary& module : model.modules) {
      if (module.bits != bits) deviating[module.name] = {{"bits", module.bits}};
    }
    if (!deviating.empty()) json["modules"] = deviating;
    json["meta"] = {{"quantizer", {fmt::format("quern:{}", QUERN_VERSION)}}};
    return json;
  }

  std::vector<SideFile> side_files(const ExportedModel& model) const override {
    if (container_ == Container::safetensors) return {};
    return {{"quant_config.json", {{"wbits", prevailing_bits(model)}}}};
  }

 private:
  Container container_;
};

}  // namespace

std::unique_ptr<Exporter> make_squeezellm_exporter(const Plan&) {
  return std::make_unique<SqueezellmExporter>(Container::torch);
}

std::unique_ptr<Exporter> make_squeezellm_safetensors_exporter(const Plan&) {
  return std::make_unique<SqueezellmExporter>(Container::safetensors);
}

}  // namespace quern
