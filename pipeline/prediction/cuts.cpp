#include "pipeline/prediction/cuts.h"

#include <algorithm>

namespace quern {
namespace {

constexpr std::int64_t kShortLayers = 2;
constexpr std::int64_t kAddedLayers = 4;

void append(Cut& cut, const LayerKind& kind, std::int64_t times) {
  cut.layers.insert(cut.layers.end(), static_cast<std::size_t>(times), kind.first);
}

}  // namespace

std::vector<Cut> cuts_of(std::span<const LayerKind> kinds) {
  const std::int64_t each = kinds.size() > 1 ? 1 : kShortLayers;
  std::vector<Cut> cuts(1);
  for (const LayerKind& kind : kinds) append(cuts[0], kind, std::min(each, kind.count));
  for (const LayerKind& kind : kinds) {
    if (kind.count <= each) continue;
    Cut cut = cuts[0];
    cut.missing = kind.count - each;
    cut.added = std::min(kAddedLayers, cut.missing);
    append(cut, kind, cut.added);
    cuts.push_back(std::move(cut));
  }
  return cuts;
}

std::int64_t most_layers(std::span<const Cut> cuts) {
  const auto size = [](const Cut& cut) { return cut.layers.size(); };
  return static_cast<std::int64_t>(size(std::ranges::max(cuts, {}, size)));
}

}  // namespace quern
