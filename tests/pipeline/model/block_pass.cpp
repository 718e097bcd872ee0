#include "tests/pipeline/model/block_pass.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <random>
#include <utility>

#include "pipeline/model/forward.h"
#include "pipeline/model/layer_loader.h"
#include "tests/support/floats.h"
#include "tests/support/paths.h"
#include "tests/workers/test_session.h"

namespace quern::test {
namespace {

/// [T, hidden] f32 each.
struct BlockInput {
  HostTensor residual;
  HostTensor output_gradient;
  std::int64_t sequence_length = 0;
};

struct BlockResult {
  std::string name;
  std::vector<float> values;
};

HostTensor normal_values(const Shape& shape, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  HostTensor values(DType::f32, shape);
  std::ranges::generate(values.as<float>(), [&] { return normal(engine); });
  return values;
}

Tensor on_device(Backend& backend, const HostTensor& values) {
  const Tensor exact = backend.memory().to_device(values);
  Tensor device = backend.memory().allocate(backend.activation_dtype(), values.shape);
  backend.layers().convert(exact.view(), device.view());
  backend.memory().synchronize();
  return device;
}

const std::string& module_name(const LayerGraph& layer, Role role) {
  for (const LayerInput& input : layer.inputs) {
    const auto found = std::ranges::find(input.modules, role, &LinearModule::role);
    if (found != input.modules.end()) return found->name;
  }
  throw std::logic_error("no such module");
}

/// In the order in which they come about.
std::vector<BlockResult> pass_block(Session& session, const OpenModel& model,
                                    const BlockInput& input) {
  Backend& backend = *session.backend;
  Forward forward(session, model.graph, input.sequence_length);
  const LayerGraph& layer = model.graph.layers.front();
  const LayerWeights weights = LayerLoader(session, *model.weights).load(layer.tensors);
  const auto block = make_block(model.graph, 0, forward.rope(), backend);
  std::vector<BlockResult> results;
  const auto note = [&](const std::string& name, ConstTensorView view) {
    results.push_back({name, floats_of(backend.memory().to_host(view))});
  };
  BlockState state;
  state.residual = on_device(backend, input.residual);
  const Tensor residual = clone(state, backend.memory()).residual;
  block->begin(weights, state);
  for (int stage = 0; stage < layer.stages(); ++stage) block->advance(stage, weights, state);
  note("output", std::as_const(state.residual).view());
  Tensor gradient = on_device(backend, input.output_gradient);
  block->backward(weights, residual.view(), gradient.view(), [&](const LinearGradient& linear) {
    const std::string& module = module_name(layer, linear.role);
    note("input of " + module, linear.input);
    note("output gradient of " + module, linear.output_gradient);
  });
  note("input gradient", std::as_const(gradient).view());
  return results;
}

double rms(std::span<const float> values) {
  double squares = 0.0;
  for (const float value : values) squares += std::pow(static_cast<double>(value), 2);
  return std::sqrt(squares / static_cast<double>(values.size()));
}

/// Largest rms of a difference between results, over the larger of `scale` and the rms expected.
double worst_difference(const std::vector<BlockResult>& found,
                        const std::vector<BlockResult>& expected, double scale, double allowed) {
  EXPECT_EQ(found.size(), expected.size());
  double worst = 0.0;
  for (std::size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
    const auto& [name, values] = expected[i];
    EXPECT_EQ(found[i].values.size(), values.size()) << name;
    std::vector<float> apart = found[i].values;
    std::ranges::transform(apart, values, apart.begin(), std::minus());
    const double difference = rms(apart) / std::max(scale, rms(values));
    EXPECT_TRUE(difference <= allowed) << name << ": " << difference << ", allowed " << allowed;
    worst = std::max(worst, difference);
  }
  return worst;
}

TinyModel one_layer() {
  TinyModel model;
  model.config = {{"model_type", "llama"}, {"rope_theta", 500.0}};
  model.reference.layers = 1;
  return model;
}

TinyModel with_window() {
  TinyModel model = one_layer();
  model.config = {{"model_type", "mistral"}, {"rope_theta", 500.0}, {"sliding_window", 20}};
  return model;
}

TinyModel with_biases() {
  TinyModel model = one_layer();
  model.config["attention_bias"] = model.config["mlp_bias"] = true;
  model.qkv_bias = model.output_bias = model.mlp_bias = true;
  return model;
}

TinyModel with_wide_heads() {
  TinyModel model = one_layer();
  model.reference.head_dim = 64;
  return model;
}

}  // namespace

std::vector<BlockVariant> block_variants() {
  return {{"GroupedQueries", one_layer()},
          {"Window", with_window()},
          {"Biases", with_biases()},
          {"WideHeads", with_wide_heads()}};
}

void expect_block_like_cpu(const BlockVariant& variant, Session& session, DType activation,
                           std::int64_t length) {
  SCOPED_TRACE(testing::Message() << "sequences of " << length);
  const TemporaryDirectory directory;
  TinyModel tiny = variant.model;
  write_tiny_model(directory.path(), tiny);
  const OpenModel model = open_model(directory.path(), {});
  const Shape shape{2 * length, model.graph.geometry.hidden};
  const BlockInput input{normal_values(shape, 1), normal_values(shape, 2), length};
  Session cpu = quiet_session();
  const double allowed = (activation == DType::f32 ? 64 : 8) * rounding_of(activation);
  const double worst =
      worst_difference(pass_block(session, model, input), pass_block(cpu, model, input),
                       rms(input.output_gradient.as<float>()), allowed);
  std::cout << variant.name << ", sequences of " << length << ": "
            << worst / rounding_of(activation) << " roundings of " << dtype_name(activation)
            << "\n";
}

}  // namespace quern::test
