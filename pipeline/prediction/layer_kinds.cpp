#include "pipeline/prediction/layer_kinds.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

namespace quern {
namespace {

/// Everything that decides what a layer takes.
std::string signature(const LayerGraph& layer, const LayerUnit& unit, std::int64_t window) {
  std::string text = fmt::format("window {}", window);
  for (const TensorNode& node : layer.tensors) {
    text += fmt::format("; {} {}", static_cast<int>(node.role), static_cast<int>(node.part));
    for (std::size_t axis = 0; axis < node.shape.rank(); ++axis)
      text += fmt::format(" {}", node.shape[axis]);
  }
  for (const BundleUnit& bundle : unit.bundles) {
    for (const auto& [module, grid] : bundle.modules) {
      text += fmt::format("; {} {} {} {}", static_cast<int>(module.role), grid.bits,
                          grid.group_size, grid.symmetric);
    }
  }
  return text;
}

double work_of(const LayerUnit& unit) {
  double flops = unit.forward_flops;
  for (const BundleUnit& bundle : unit.bundles) {
    flops += bundle.statistics_flops + bundle.solve_flops;
  }
  return flops;
}

}  // namespace

std::vector<LayerKind> layer_kinds(const ModelGraph& graph, const Plan& plan) {
  std::vector<LayerKind> kinds;
  std::map<std::string, std::size_t> known;
  for (const LayerGraph& layer : graph.layers) {
    const auto index = static_cast<std::size_t>(layer.index);
    const std::string text = signature(layer, plan.layers[index], graph.geometry.window[index]);
    const auto [place, is_new] = known.try_emplace(text, kinds.size());
    if (is_new) kinds.push_back({layer.index, 0});
    ++kinds[place->second].count;
  }
  std::ranges::stable_sort(kinds, std::ranges::greater{}, &LayerKind::count);
  const auto work = [&](const LayerKind& kind) {
    return work_of(plan.layers[static_cast<std::size_t>(kind.first)]);
  };
  for (; kinds.size() > kMostLayerKinds; kinds.pop_back()) {
    const auto distance = [&](const LayerKind& kind) {
      return std::abs(work(kind) - work(kinds.back()));
    };
    std::ranges::min_element(kinds.begin(), kinds.begin() + kMostLayerKinds, {}, distance)->count +=
        kinds.back().count;
  }
  return kinds;
}

}  // namespace quern
