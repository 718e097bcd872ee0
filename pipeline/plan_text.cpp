#include "pipeline/plan_text.h"

#include <fmt/format.h>

#include <limits>

#include "pipeline/device/device_refusal.h"
#include "pipeline/estimate.h"

namespace quern {
namespace {

/// What the method is given: tables have neither groups nor signs, and target_bits chooses the
/// bits.
nlohmann::json module_json(const PlannedModule& planned, const QuantizeConfig& config) {
  const auto& [module, grid] = planned;
  nlohmann::json row = {{"name", module.name},
                        {"out_features", module.out_features},
                        {"in_features", module.in_features},
                        {"bits", grid.bits}};
  if (config.target_bits) row["bits"] = nullptr;
  if (config.method == Method::squeezellm) return row;
  row["group_size"] = grid.group_size;
  row["symmetric"] = grid.symmetric;
  return row;
}

nlohmann::json bundle_json(const BundleUnit& bundle, const QuantizeConfig& config, int owner) {
  nlohmann::json modules = nlohmann::json::array();
  for (const PlannedModule& planned : bundle.modules) {
    modules.push_back(module_json(planned, config));
  }
  return {{"name", bundle.name},
          {"input", bundle.input.name},
          {"owner", owner},
          {"modules", modules},
          {"statistics_flops", bundle.statistics_flops},
          {"solve_flops", bundle.solve_flops},
          {"state_bytes", bundle.state_bytes}};
}

nlohmann::json bundles_json(const std::vector<BundleUnit>& bundles, const QuantizeConfig& config,
                            int ranks) {
  const std::vector<int> owners = assign_owners(bundles, ranks);
  nlohmann::json rows = nlohmann::json::array();
  for (std::size_t i = 0; i < bundles.size(); ++i) {
    if (!bundles[i].modules.empty()) rows.push_back(bundle_json(bundles[i], config, owners[i]));
  }
  return rows;
}

/// What a GPU computes in.
DType activation_on_gpu(const RunFile& config, const ModelGeometry& geometry) {
  return dtype_of(config.run.activation_type).value_or(geometry.dtype);
}

/// Of a rank on a GPU; null where none is used. Without run.gpu_memory everything lies on it.
nlohmann::json gpu_json(const ModelGraph& graph, const Plan& plan, const RunFile& config,
                        int ranks) {
  if (config.run.device == Device::cpu) return nullptr;
  const DeviceUse use{ranks, activation_on_gpu(config, graph.geometry)};
  const DeviceNeeds needs = device_needs(graph, plan, config, use);
  const std::uint64_t allowed = config.run.gpu_memory_bytes;
  const std::uint64_t limit = allowed == 0 ? std::numeric_limits<std::uint64_t>::max() : allowed;
  const DevicePlacement placement = place_on_device(needs, limit);
  return {{"allowed", allowed == 0 ? nlohmann::json() : nlohmann::json(allowed)},
          {"least", needs.least_bytes()},
          {"most", needs.most_bytes()},
          {"weights", needs.weight_bytes},
          {"statistics", needs.statistics_bytes},
          {"work", needs.work_bytes},
          {"micro_batches", needs.rounds},
          {"micro_batches_on_device", placement.states_on_device},
          {"activations_in_host_memory", placement.host_bytes},
          {"refusal", device_refusal(graph, plan, config, use, limit)}};
}

std::string gigabytes(const nlohmann::json& bytes) {
  const auto value = bytes.get<double>();
  return value < 1e9 ? fmt::format("{:.1f} MB", value / 1e6)
                     : fmt::format("{:.2f} GB", value / 1e9);
}

std::string bits_text(const nlohmann::json& module) {
  const nlohmann::json& bits = module.at("bits");
  return bits.is_null() ? "bits by the target" : fmt::format("{} bits", bits.get<int>());
}

std::string group_text(const nlohmann::json& module) {
  const auto size = module.find("group_size");
  return size == module.end() ? "" : fmt::format(", group {}", size->get<std::int64_t>());
}

std::string bundle_lines(const nlohmann::json& bundles) {
  std::string text;
  for (const auto& bundle : bundles) {
    text += fmt::format("  {:<34} rank {:<3} {:>9.3g} Gflop  {:>9}  {}\n",
                        bundle.at("name").get<std::string>(), bundle.at("owner").get<int>(),
                        bundle.at("solve_flops").get<double>() / 1e9,
                        gigabytes(bundle.at("state_bytes")), bundle.at("input").get<std::string>());
    for (const auto& module : bundle.at("modules")) {
      text += fmt::format("    {} [{}, {}] {}{}\n", module.at("name").get<std::string>(),
                          module.at("out_features").get<std::int64_t>(),
                          module.at("in_features").get<std::int64_t>(), bits_text(module),
                          group_text(module));
    }
  }
  return text;
}

std::string gpu_line(const nlohmann::json& gpu) {
  if (gpu.is_null()) return "";
  std::string text = fmt::format(
      "  gpu     {} per rank with all micro-batches on the device, {} at least: weights {}, "
      "statistics {}, work {}\n",
      gigabytes(gpu.at("most")), gigabytes(gpu.at("least")), gigabytes(gpu.at("weights")),
      gigabytes(gpu.at("statistics")), gigabytes(gpu.at("work")));
  if (gpu.at("allowed").is_null()) return text;
  const auto& refusal = gpu.at("refusal").get_ref<const std::string&>();
  if (!refusal.empty()) return text + "          " + refusal + "\n";
  return text + fmt::format(
                    "          of {}: {} of {} micro-batches on the device, {} of activations in "
                    "host memory\n",
                    gigabytes(gpu.at("allowed")),
                    gpu.at("micro_batches_on_device").get<std::int64_t>(),
                    gpu.at("micro_batches").get<std::int64_t>(),
                    gigabytes(gpu.at("activations_in_host_memory")));
}

}  // namespace

nlohmann::json plan_json(const ModelGraph& graph, const Plan& plan, const RunFile& config,
                         int ranks) {
  const Estimate predicted = estimate(graph, plan, config, ranks);
  nlohmann::json layers = nlohmann::json::array();
  for (const LayerUnit& layer : plan.layers) {
    layers.push_back({{"layer", layer.layer},
                      {"forward_flops", layer.forward_flops},
                      {"weights", layer.weight_elems},
                      {"bundles", bundles_json(layer.bundles, config.quantize, ranks)}});
  }
  return {{"model_type", graph.geometry.model_type},
          {"ranks", ranks},
          {"layers", layers},
          {"head", bundles_json(plan.head, config.quantize, ranks)},
          {"flops",
           {{"forward", predicted.forward_flops},
            {"statistics", predicted.statistics_flops},
            {"solve", predicted.solve_flops}}},
          {"memory_per_rank",
           {{"activations", predicted.activation_bytes},
            {"weights", predicted.weight_bytes},
            {"statistics", predicted.statistics_bytes},
            {"solver", predicted.solver_bytes},
            {"peak", predicted.peak_rank_bytes()}}},
          {"gpu_memory_per_rank", gpu_json(graph, plan, config, ranks)},
          {"disk", {{"state", predicted.state_bytes}, {"output", predicted.output_bytes}}},
          {"warnings", plan.warnings}};
}

std::string plan_text(const nlohmann::json& plan) {
  std::string text;
  for (const auto& layer : plan.at("layers")) {
    text += fmt::format(
        "layer {}: {:.3g} M weights, forward {:.3g} Gflop\n", layer.at("layer").get<std::int64_t>(),
        layer.at("weights").get<double>() / 1e6, layer.at("forward_flops").get<double>() / 1e9);
    text += bundle_lines(layer.at("bundles"));
  }
  if (!plan.at("head").empty()) text += "head\n" + bundle_lines(plan.at("head"));
  const auto& flops = plan.at("flops");
  const auto& memory = plan.at("memory_per_rank");
  text += fmt::format(
      "total, {} rank{}\n  work    forward {:.3g}, statistics {:.3g}, solve {:.3g} "
      "Tflop\n",
      plan.at("ranks").get<int>(), plan.at("ranks") == 1 ? "" : "s",
      flops.at("forward").get<double>() / 1e12, flops.at("statistics").get<double>() / 1e12,
      flops.at("solve").get<double>() / 1e12);
  text +=
      fmt::format("  memory  {} per rank: activations {}, weights {}, statistics {}, solver {}\n",
                  gigabytes(memory.at("peak")), gigabytes(memory.at("activations")),
                  gigabytes(memory.at("weights")), gigabytes(memory.at("statistics")),
                  gigabytes(memory.at("solver")));
  text += gpu_line(plan.at("gpu_memory_per_rank"));
  text += fmt::format("  disk    state {}, output {}\n", gigabytes(plan.at("disk").at("state")),
                      gigabytes(plan.at("disk").at("output")));
  for (const auto& warning : plan.at("warnings")) {
    text += fmt::format("warning: {}\n", warning.get<std::string>());
  }
  return text;
}

}  // namespace quern
