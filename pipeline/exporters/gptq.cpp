#include "pipeline/exporters/gptq.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "kernels/core/error.h"
#include "pipeline/exporters/gptq_dynamic.h"

namespace quern {
namespace {

std::int64_t words_for(std::int64_t fields, int bits) {
  return (fields * bits + 31) / 32;
}

/// Zero points [G, N] packed along N into [G, ceil(N bits / 32)] i32, each lowered by `offset`.
HostTensor pack_zeros(const HostTensor& zeros, int bits, int offset) {
  const auto groups = static_cast<std::size_t>(zeros.shape[0]);
  const auto rows = static_cast<std::size_t>(zeros.shape[1]);
  HostTensor packed(DType::i32, {zeros.shape[0], words_for(zeros.shape[1], bits)});
  const auto words_per_group = static_cast<std::size_t>(packed.shape[1]);
  const auto words = packed.as<std::int32_t>();
  for (std::size_t g = 0; g < groups; ++g) {
    std::uint64_t pending = 0;  // bits that do not fill a word yet
    int filled = 0;
    std::size_t word = g * words_per_group;
    for (std::size_t n = 0; n < rows; ++n) {
      const int stored = zeros.as<std::uint8_t>()[g * rows + n] - offset;
      pending |= static_cast<std::uint64_t>(stored) << filled;
      filled += bits;
      if (filled < 32) continue;
      words[word++] = static_cast<std::int32_t>(static_cast<std::uint32_t>(pending));
      pending >>= 32;
      filled -= 32;
    }
    if (filled > 0) words[word] = static_cast<std::int32_t>(static_cast<std::uint32_t>(pending));
  }
  return packed;
}

class GptqExporter final : public Exporter {
 public:
  explicit GptqExporter(bool symmetric) : symmetric_(symmetric) {}

  std::vector<TensorSpec> specs(const ModuleSummary& module, DType) const override {
    const std::int64_t k = module.in_features;
    const std::int64_t n = module.out_features;
    const std::int64_t groups = group_count(k, module.group_size);
    return {{module.name + ".qweight", DType::i32, {words_for(k, module.bits), n}},
            {module.name + ".qzeros", DType::i32, {groups, words_for(n, module.bits)}},
            {module.name + ".scales", DType::f16, {groups, n}},
            {module.name + ".g_idx", DType::i32, {k}}};
  }

  std::vector<NamedTensor> tensors(QuantizedModule module, DType) const override {
    auto* grid = std::get_if<UniformGrid>(&module.values);
    ensure(grid != nullptr, "a module on a uniform grid for the gptq format");
    std::vector<NamedTensor> result;
    result.push_back({module.name + ".qweight", std::move(module.words)});
    result.push_back(
        {module.name + ".qzeros", pack_zeros(grid->zeros, module.bits, symmetric_ ? 1 : 0)});
    result.push_back({module.name + ".scales", std::move(grid->scales)});
    result.push_back({module.name + ".g_idx", std::move(grid->group_of)});
    return result;
  }

  DType bias_dtype(DType) const override { return DType::f16; }
  Container container() const override { return Container::safetensors; }
  std::vector<NamedScalar> scalars(const ExportedModel&) const override { return {}; }

  nlohmann::ordered_json quantization_config(const ExportedModel& model) const override {
    const QuantizeConfig& config = model.config;
    const char* format = symmetric_ ? "gptq" : "gptq_v2";
    nlohmann::ordered_json json = {{"bits", config.grid.bits},
                                   {"group_size", config.grid.group_size},
                                   {"desc_act", config.act_order == ActOrder::full},
                                   {"sym", config.grid.symmetric},
                                   {"lm_head", config.lm_head},
                                   {"quant_method", "gptq"},
                                   {"method", "gptq"},
                                   {"checkpoint_format", format},
                                   {"format", format},
                                   {"pack_dtype", "int32"}};
    const nlohmann::ordered_json dynamic = gptq_dynamic(model.graph, config);
    if (!dynamic.empty()) json["dynamic"] = dynamic;
    json["meta"] = {{"quantizer", {fmt::format("quern:{}", QUERN_VERSION)}},
                    {"damp_percent", config.damping},
                    {"true_sequential", config.true_sequential},
                    {"static_groups", false},
                    {"act_group_aware", config.act_order == ActOrder::group_aware},
                    {"scale_search",
                     config.grid.scale_search == ScaleSearch::weighted ? "weighted" : "absmax"}};
    return json;
  }

  std::vector<SideFile> side_files(const ExportedModel& model) const override {
    return {{"quantize_config.json", quantization_config(model)}};
  }

 private:
  bool symmetric_;
};

}  // namespace

std::unique_ptr<Exporter> make_gptq_exporter(const Plan& plan) {
  bool symmetric = true;
  for (const BundleUnit* bundle : plan.stored_bundles()) {
    for (const PlannedModule& planned : bundle->modules) symmetric &= planned.grid.symmetric;
  }
  return std::make_unique<GptqExporter>(symmetric);
}

}  // namespace quern
