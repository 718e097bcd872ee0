#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "pipeline/model/layer_loader.h"
#include "tests/pipeline/model/tiny_model.h"
#include "tests/pipeline/model/traced_model.h"
#include "tests/support/paths.h"
#include "tests/workers/test_session.h"

namespace quern::test {
namespace {

constexpr std::size_t kLength = 14;
constexpr std::size_t kSequences = 2;

TinyModel one_layer() {
  TinyModel model;
  model.config = {{"model_type", "llama"}, {"rope_theta", 500.0}};
  model.reference.layers = 1;
  model.reference.frequencies = plain_frequencies(500.0, model.reference.head_dim);
  model.reference.window = {0};
  return model;
}

std::vector<int> token_ids(std::size_t sequence) {
  std::vector<int> ids;
  for (std::size_t t = 0; t < kLength; ++t) {
    ids.push_back(static_cast<int>((17 * t * t + 31 * t + 5 * sequence) % 61));
  }
  return ids;
}

/// The loss as the gradients have it: the sum over the sequences of their mean, in float64.
double reference_loss(const ReferenceModel& model) {
  double loss = 0.0;
  for (std::size_t sequence = 0; sequence < kSequences; ++sequence) {
    const std::vector<int> ids = token_ids(sequence);
    for (const double nll : reference_nll(model.logits(ids), ids)) loss += nll / (kLength - 1);
  }
  return loss;
}

/// d loss / d entry by a central difference of the reference.
double slope(ReferenceModel& model, const std::string& tensor, std::size_t entry) {
  constexpr double kStep = 1e-4;
  double& value = model.tensors.at(tensor).values[entry];
  const double before = value;
  value = before + kStep;
  const double above = reference_loss(model);
  value = before - kStep;
  const double below = reference_loss(model);
  value = before;
  return (above - below) / (2 * kStep);
}

/// What a visit shows, copied while it lasts.
struct Visit {
  Role role;
  HostTensor input;
  HostTensor output_gradient;

  /// (dy^T x)[entry], entry of the weight [N, K].
  double weight_gradient(std::size_t entry) const {
    const auto columns = static_cast<std::size_t>(input.shape[1]);
    const auto rows = static_cast<std::size_t>(output_gradient.shape[1]);
    double sum = 0.0;
    for (std::size_t t = 0; t < static_cast<std::size_t>(input.shape[0]); ++t) {
      sum += static_cast<double>(output_gradient.as<float>()[t * rows + entry / columns]) *
             static_cast<double>(input.as<float>()[t * columns + entry % columns]);
    }
    return sum;
  }
};

/// A model on disk, and one backward pass through its only layer.
struct Passed {
  TemporaryDirectory directory;
  TinyModel tiny;
  OpenModel model;
  MicroBatches batches;
  Session session = quiet_session();
  HostTensor residual;        ///< the layer's input before the pass
  HostTensor residual_after;  ///< and after it
  HostTensor gradient;        ///< at the layer's input
  std::vector<Visit> visits;

  explicit Passed(TinyModel made)
      : tiny(std::move(made)), model(written()), batches(all_ids(), kSequences) {
    Forward forward(session, model.graph, kLength);
    LayerLoader loader(session, *model.weights);
    const LayerGraph& layer = model.graph.layers.front();
    const LayerWeights weights = loader.load(layer.tensors);
    const auto block = make_block(model.graph, 0, forward.rope(), *session.backend);
    Memory& memory = session.backend->memory();
    BlockState state;
    state.residual = forward.embed(loader.load(forward.embedding_tensors()), batches.ids(0));
    const Tensor input = clone(state, memory).residual;
    residual = memory.to_host(input.view());
    block->begin(weights, state);
    for (int stage = 0; stage < layer.stages(); ++stage) block->advance(stage, weights, state);
    const LayerWeights head = loader.load(forward.head_tensors());
    Tensor in_and_out = forward.loss_gradient(head, state.residual.view(), batches.ids(0));
    block->backward(weights, input.view(), in_and_out.view(), [&](const LinearGradient& linear) {
      visits.push_back(
          {linear.role, memory.to_host(linear.input), memory.to_host(linear.output_gradient)});
    });
    gradient = memory.to_host(std::as_const(in_and_out).view());
    residual_after = memory.to_host(input.view());
  }

  const LinearModule& module_of(Role role) const {
    for (const LayerInput& input : model.graph.layers.front().inputs) {
      for (const LinearModule& module : input.modules) {
        if (module.role == role) return module;
      }
    }
    throw std::logic_error("no such module");
  }

 private:
  OpenModel written() {
    write_tiny_model(directory.path(), tiny);
    return open_model(directory.path(), {});
  }
  static HostTensor all_ids() {
    HostTensor ids(DType::i32, {kSequences, kLength});
    for (std::size_t sequence = 0; sequence < kSequences; ++sequence) {
      std::ranges::copy(token_ids(sequence), ids.as<std::int32_t>().begin() +
                                                 static_cast<std::ptrdiff_t>(sequence * kLength));
    }
    return ids;
  }
};

/// Entries spread over a tensor, the largest difference over the largest slope.
template <typename Found>
double worst_slope(ReferenceModel& reference, const std::string& tensor, Found found) {
  const std::size_t elems = reference.tensors.at(tensor).values.size();
  double worst = 0.0;
  double top = 0.0;
  for (std::size_t entry = 0; entry < elems; entry += elems / 29 + 1) {
    const double expected = slope(reference, tensor, entry);
    const double difference = std::abs(found(entry) - expected);
    top = std::max(top, std::abs(expected));
    worst = std::isfinite(difference) ? std::max(worst, difference) : HUGE_VAL;
  }
  EXPECT_GT(top, 0.0) << tensor;
  return worst / top;
}

/// The gradient of every weight, and of the layer's input through the embedding, whose rows are
/// that input.
void expect_slopes(TinyModel made) {
  Passed passed(std::move(made));
  ReferenceModel& reference = passed.tiny.reference;
  ASSERT_EQ(passed.visits.size(), 7U);
  for (const Visit& visit : passed.visits) {
    const std::string weight = passed.module_of(visit.role).weight_name();
    const auto found = [&](std::size_t entry) { return visit.weight_gradient(entry); };
    EXPECT_LT(worst_slope(reference, weight, found), 1e-5) << weight;
  }
  const auto hidden = static_cast<std::size_t>(passed.gradient.shape[1]);
  const auto at_input = [&](std::size_t entry) {
    double sum = 0.0;
    for (std::size_t t = 0; t < kSequences * kLength; ++t) {
      const int id = passed.batches.ids(0)[t];
      if (static_cast<std::size_t>(id) != entry / hidden) continue;
      sum += static_cast<double>(passed.gradient.as<float>()[t * hidden + entry % hidden]);
    }
    return sum;
  };
  EXPECT_LT(worst_slope(reference, "model.embed_tokens.weight", at_input), 1e-5);
}

TEST(Backward, GradientsAreTheSlopesOfTheReference) {
  expect_slopes(one_layer());
}

TEST(Backward, WithBiasesAndAWindow) {
  TinyModel model = one_layer();
  model.config["model_type"] = "qwen2";
  model.qkv_bias = true;
  model.config["use_sliding_window"] = true;
  model.config["sliding_window"] = 5;
  model.config["max_window_layers"] = 0;
  model.reference.window = {5};
  expect_slopes(std::move(model));
}

TEST(Backward, WithBiasesEverywhereAndWideHeads) {
  TinyModel model = one_layer();
  model.config["attention_bias"] = model.config["mlp_bias"] = true;
  model.qkv_bias = model.output_bias = model.mlp_bias = true;
  model.reference.head_dim = 16;
  model.reference.frequencies = plain_frequencies(500.0, 16);
  expect_slopes(std::move(model));
}

TEST(Backward, VisitsInputsFromTheLastStageToTheFirst) {
  const Passed passed(one_layer());
  std::vector<Role> expected;
  const auto& inputs = passed.model.graph.layers.front().inputs;
  for (std::size_t i = inputs.size(); i-- > 0;) {
    for (const LinearModule& module : inputs[i].modules) expected.push_back(module.role);
  }
  std::vector<Role> found;
  for (const Visit& visit : passed.visits) found.push_back(visit.role);
  EXPECT_THAT(found, testing::ElementsAreArray(expected));
  EXPECT_THAT(found, testing::ElementsAre(Role::down, Role::gate, Role::up, Role::attention_output,
                                          Role::query, Role::key, Role::value));
}

/// What a visit calls the input is, bit for bit, what the forward pass let the module read.
TEST(Backward, ShowsTheInputsOfTheForwardPass) {
  Passed passed(one_layer());
  const Trace trace = trace_model(passed.session, passed.model, passed.batches);
  for (const Visit& visit : passed.visits) {
    const LinearModule& module = passed.module_of(visit.role);
    EXPECT_EQ(visit.input.bytes, trace.inputs.at(module.name).bytes) << module.name;
    EXPECT_EQ(visit.output_gradient.shape,
              (Shape{static_cast<std::int64_t>(kSequences * kLength), module.out_features}));
  }
}

TEST(Backward, LeavesTheResidualAloneAndRepeatsItsBits) {
  const Passed passed(one_layer());
  EXPECT_EQ(passed.residual.bytes, passed.residual_after.bytes);
  const Passed again(one_layer());
  EXPECT_EQ(passed.gradient.bytes, again.gradient.bytes);
  for (std::size_t i = 0; i < passed.visits.size(); ++i) {
    EXPECT_EQ(passed.visits[i].output_gradient.bytes, again.visits[i].output_gradient.bytes);
  }
}

}  // namespace
}  // namespace quern::test
