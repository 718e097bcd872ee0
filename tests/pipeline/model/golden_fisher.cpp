#include "tests/pipeline/model/golden_fisher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>

#include "pipeline/model/forward.h"
#include "pipeline/model/layer_loader.h"
#include "pipeline/stages/fisher.h"
#include "tests/pipeline/model/deviation.h"
#include "tests/pipeline/model/golden_values.h"
#include "tests/support/paths.h"

namespace quern::test {
namespace {

/// The pipeline's walk forward and back over this rank's micro-batches, without store and signals.
class Walk {
 public:
  Walk(Session& session, const OpenModel& model, const MicroBatches& batches)
      : session_(session),
        graph_(model.graph),
        batches_(batches),
        loader_(session, *model.weights),
        forward_(session, model.graph, batches.sequence_length()) {}

  /// F of the modules of the layers from `lowest` on whose sums this rank owns.
  std::map<std::string, HostTensor> fisher(std::int64_t lowest) {
    forward();
    std::map<std::string, HostTensor> result;
    for (auto layer = static_cast<std::int64_t>(graph_.layers.size()); layer-- > lowest;) {
      for (BundleStatistics& bundle : backward(graph_.layers[static_cast<std::size_t>(layer)])) {
        for (auto& [name, statistics] : bundle.modules) {
          result[name] = session_.backend->memory().to_host(statistics.fisher->view());
        }
      }
    }
    return result;
  }

 private:
  std::unique_ptr<DecoderBlock> block_of(const LayerGraph& layer) {
    return make_block(graph_, layer.index, forward_.rope(), *session_.backend);
  }

  void forward() {
    const LayerWeights embedding = loader_.load(forward_.embedding_tensors());
    std::vector<BlockState> states;
    for (std::int64_t m = session_.rank(); m < batches_.count(); m += session_.ranks()) {
      micro_batches_.push_back(m);
      states.emplace_back().residual = forward_.embed(embedding, batches_.ids(m));
    }
    for (const LayerGraph& layer : graph_.layers) {
      const LayerWeights weights = loader_.load(layer.tensors);
      const auto block = block_of(layer);
      auto& inputs = inputs_.emplace_back();
      for (BlockState& state : states) {
        inputs.push_back(clone(state, session_.backend->memory()).residual);
        block->begin(weights, state);
        for (int stage = 0; stage < layer.stages(); ++stage) block->advance(stage, weights, state);
      }
    }
    const LayerWeights head = loader_.load(forward_.head_tensors());
    for (std::size_t i = 0; i < states.size(); ++i) {
      gradients_.push_back(
          forward_.loss_gradient(head, states[i].residual.view(), batches_.ids(micro_batches_[i])));
    }
  }

  std::vector<BundleStatistics> backward(const LayerGraph& layer) {
    const LayerWeights weights = loader_.load(layer.tensors);
    std::vector<const LayerInput*> inputs;
    std::vector<int> owners;
    for (const LayerInput& input : layer.inputs) {
      owners.push_back(static_cast<int>(inputs.size()) % session_.ranks());
      inputs.push_back(&input);
    }
    const std::int64_t length = batches_.sequence_length();
    FisherSums sums(session_, inputs, {.fisher = true}, {length, batches_.tokens() / length});
    std::vector<Tensor> passed = pass(layer, weights, sums);
    while (sums.overflowed()) {
      sums.widen();
      passed = pass(layer, weights, sums);
    }
    gradients_ = std::move(passed);
    return sums.reduce(owners);
  }

  std::vector<Tensor> pass(const LayerGraph& layer, const LayerWeights& weights, FisherSums& sums) {
    Memory& memory = session_.backend->memory();
    const auto block = block_of(layer);
    std::vector<Tensor> gradients;
    if (micro_batches_.empty()) sums.take_part();
    for (std::size_t i = 0; i < micro_batches_.size(); ++i) {
      gradients.push_back(memory.allocate(gradients_[i].dtype(), gradients_[i].shape()));
      memory.copy(gradients_[i].view(), gradients[i].view());
      const Tensor& input = inputs_[static_cast<std::size_t>(layer.index)][i];
      block->backward(weights, input.view(), gradients[i].view(),
                      [&](const LinearGradient& linear) { sums.add(linear, i == 0); });
      memory.synchronize();
    }
    return gradients;
  }

  Session& session_;
  const ModelGraph& graph_;
  const MicroBatches& batches_;
  LayerLoader loader_;
  Forward forward_;
  std::vector<std::int64_t> micro_batches_;
  std::vector<std::vector<Tensor>> inputs_;  ///< by layer and micro-batch
  std::vector<Tensor> gradients_;            ///< at the output of the layer that comes next
};

/// The row that differs most, of those with a mass above 1e-6 of the largest row's.
struct WorstRow {
  std::string weight;
  std::size_t row = 0;
  double in_sum = 0.0;   ///< of the row's sum
  double in_mass = 0.0;  ///< sum |difference| over the row's sum
};

WorstRow worst_row(const std::string& name, const HostTensor& found, const HostTensor& expected) {
  const auto columns = static_cast<std::size_t>(expected.shape[1]);
  const auto rows = static_cast<std::size_t>(expected.shape[0]);
  std::vector<double> mass(rows);
  for (std::size_t i = 0; i < rows * columns; ++i) {
    mass[i / columns] += static_cast<double>(expected.as<float>()[i]);
  }
  const double limit = 1e-6 * *std::ranges::max_element(mass);
  WorstRow worst{name};
  for (std::size_t row = 0; row < rows; ++row) {
    if (mass[row] <= limit) continue;
    double sum = 0.0;
    double apart = 0.0;
    for (std::size_t i = row * columns; i < (row + 1) * columns; ++i) {
      const auto value = static_cast<double>(found.as<float>()[i]);
      sum += value;
      apart += std::abs(value - static_cast<double>(expected.as<float>()[i]));
    }
    const double in_mass = std::isfinite(apart) ? apart / mass[row] : HUGE_VAL;
    if (in_mass > worst.in_mass) {
      worst = {name, row, std::abs(sum - mass[row]) / mass[row], in_mass};
    }
  }
  return worst;
}

}  // namespace

/// For 16 bits about twice what the roundings alone do to these models.
double fisher_tolerance(DType activation, std::int64_t layers) {
  if (activation == DType::f32) return 3e-5;
  return 16 * depth_rounding(activation, layers);
}

GoldenFisher::GoldenFisher(const std::string& name)
    : name_(name),
      golden_(shared_dir() / "golden" / (name + ".safetensors")),
      model_(open_model(shared_dir() / "models" / name, {})) {}

FisherOfModules GoldenFisher::fisher(Session& session, std::int64_t micro_batch) const {
  const MicroBatches batches(read(golden_, "input_ids"), micro_batch);
  return Walk(session, model_, batches).fisher(1);
}

std::int64_t GoldenFisher::expect_golden(const FisherOfModules& found, DType activation) const {
  const double tolerance = fisher_tolerance(activation, std::ssize(model_.graph.layers));
  std::int64_t compared = 0;
  for (const auto& [entry_name, entry] : golden_.entries()) {
    if (!entry_name.starts_with("fisher.")) continue;
    const auto mine = found.find(entry_name.substr(7, entry_name.rfind('.') - 7));
    if (mine == found.end()) continue;
    EXPECT_EQ(mine->second.shape, entry.shape) << entry_name;
    const WorstRow worst = worst_row(entry_name, mine->second, read(golden_, entry_name));
    EXPECT_LT(worst.in_sum, tolerance) << entry_name << ", row " << worst.row;
    EXPECT_LT(worst.in_mass, tolerance) << entry_name << ", row " << worst.row;
    std::cout << name_ << " " << entry_name << ": worst row " << worst.row << ", its sum apart by "
              << worst.in_sum << ", its entries by " << worst.in_mass << "\n";
    ++compared;
  }
  return compared;
}

}  // namespace quern::test
