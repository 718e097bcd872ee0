#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "pipeline/config/rules.h"
#include "pipeline/config/run_config.h"
#include "pipeline/model/model_graph.h"

namespace quern {

struct PlannedModule {
  LinearModule module;
  GridSpec grid;
};

/// The modules of one layer input that are solved and committed together. Empty if rules skip all
/// of them: then it is neither solved nor stored.
struct BundleUnit {
  std::string name;  ///< in the state store: "layers/layer-007/bundle-02.h5"
  LayerInput input;
  std::vector<PlannedModule> modules;
  double statistics_flops = 0;
  double solve_flops = 0;
  std::uint64_t state_bytes = 0;  ///< codes and what turns them into weights
};

struct LayerUnit {
  std::int64_t layer = 0;
  std::vector<BundleUnit> bundles;  ///< one per LayerInput, in order of stage
  double forward_flops = 0;
  std::uint64_t weight_elems = 0;

  std::vector<std::string> bundle_names() const;  ///< of those that are stored
};

/// What a run does, in order. A pure function of configuration and graph; knows no ranks.
struct Plan {
  std::vector<LayerUnit> layers;
  std::vector<BundleUnit> head;       ///< one bundle with lm_head if asked for, else none
  std::vector<std::string> warnings;  ///< what servers would refuse to load

  std::vector<const BundleUnit*> stored_bundles() const;
  std::int64_t planned_weights() const;  ///< of all modules that are quantized
};

Plan make_plan(const ModelGraph& graph, const RunFile& config);

/// The rank that solves each bundle: longest first, each to the rank with the least work so far,
/// ties to the lower rank. Pure.
std::vector<int> assign_owners(std::span<const BundleUnit* const> bundles, int ranks);
std::vector<int> assign_owners(const std::vector<BundleUnit>& bundles, int ranks);

/// Bundles of a layer whose inputs are measured, and which are solved, together.
struct InputGroup {
  std::span<const BundleUnit> bundles;  ///< some of the layer's, at least one

  int first_stage() const { return bundles.front().input.stage; }
  int last_stage() const { return bundles.back().input.stage; }
};

/// In order of stage. With true_sequential each stage of gptq sees what was made of those before.
std::vector<InputGroup> input_groups(const LayerUnit& layer, const QuantizeConfig& config);

}  // namespace quern
