#include <gtest/gtest.h>

#include <cmath>

#include "tests/pipeline/model/tiny_model.h"
#include "tests/pipeline/model/traced_model.h"
#include "tests/support/paths.h"
#include "tests/workers/test_session.h"

namespace quern::test {
namespace {

constexpr std::size_t kLength = 40;

TinyModel tiny(const char* model_type, std::size_t head_dim = 8) {
  TinyModel model;
  model.config = {{"model_type", model_type}, {"rope_theta", 10000.0}};
  model.reference.head_dim = head_dim;
  model.reference.frequencies = plain_frequencies(10000.0, head_dim);
  model.reference.window = {0, 0};
  return model;
}

std::vector<int> token_ids(int seed) {
  std::vector<int> ids;
  for (std::size_t t = 0; t < kLength; ++t)
    ids.push_back(static_cast<int>((17 * t * t + 31 * t) % 59) + seed);
  return ids;
}

/// Largest difference over the largest expected value.
double deviation(std::span<const float> found, const std::vector<double>& expected) {
  double top = 0.0;
  double worst = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    top = std::max(top, std::abs(expected[i]));
    const double difference = std::abs(static_cast<double>(found[i]) - expected[i]);
    worst = std::isfinite(difference) ? std::max(worst, difference) : HUGE_VAL;
  }
  return worst / top;
}

/// Two sequences through the pipeline's model and the reference's.
void expect_equal_forward(TinyModel& tiny_model) {
  const TemporaryDirectory directory;
  write_tiny_model(directory.path(), tiny_model);
  const OpenModel model = open_model(directory.path(), {});
  HostTensor ids(DType::i32, {2, static_cast<std::int64_t>(kLength)});
  for (int sequence = 0; sequence < 2; ++sequence) {
    const std::vector<int> row = token_ids(sequence);
    std::ranges::copy(row, ids.as<std::int32_t>().begin() + sequence * static_cast<int>(kLength));
  }
  Session session = quiet_session();
  const Trace trace = trace_model(session, model, MicroBatches(ids, 2));
  const std::size_t elems = trace.logits.as<float>().size() / 2;
  for (std::size_t sequence = 0; sequence < 2; ++sequence) {
    const std::vector<int> row = token_ids(static_cast<int>(sequence));
    const std::vector<double> logits = tiny_model.reference.logits(row);
    ASSERT_EQ(logits.size(), elems);
    const double worst =
        deviation(trace.logits.as<float>().subspan(sequence * elems, elems), logits);
    EXPECT_LT(worst, 1e-5);
    EXPECT_LT(deviation(std::span(trace.nll).subspan(sequence * (kLength - 1), kLength - 1),
                        reference_nll(logits, row)),
              1e-5);
  }
}

TEST(Synthetic, LlamaWithItsHeadDimension) {
  TinyModel model = tiny("llama");
  expect_equal_forward(model);
  TinyModel wide = tiny("llama", 16);
  expect_equal_forward(wide);
}

TEST(Synthetic, LlamaWithBiasesEverywhere) {
  TinyModel model = tiny("llama");
  model.config["attention_bias"] = true;
  model.config["mlp_bias"] = true;
  model.qkv_bias = model.output_bias = model.mlp_bias = true;
  expect_equal_forward(model);
}

TEST(Synthetic, YiHasALargerTheta) {
  TinyModel model = tiny("Yi");
  model.config.erase("rope_theta");
  model.reference.frequencies = plain_frequencies(5e6, 8);
  expect_equal_forward(model);
}

TEST(Synthetic, LinearRopeOldAndNewStyle) {
  for (const bool new_style : {false, true}) {
    TinyModel model = tiny("llama", 16);
    if (new_style) {
      model.config.erase("rope_theta");
      model.config["rope_parameters"] = {
          {"rope_type", "linear"}, {"rope_theta", 500.0}, {"factor", 4.0}};
    } else {
      model.config["rope_theta"] = 500.0;
      model.config["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
    }
    model.reference.frequencies = plain_frequencies(500.0, 16);
    for (double& frequency : model.reference.frequencies) frequency /= 4.0;
    expect_equal_forward(model);
  }
}

TEST(Synthetic, Llama3RopeOldAndNewStyle) {
  const nlohmann::json scaling = {{"rope_type", "llama3"},
                                  {"factor", 8.0},
                                  {"low_freq_factor", 1.0},
                                  {"high_freq_factor", 4.0},
                                  {"original_max_position_embeddings", 64}};
  for (const bool new_style : {false, true}) {
    TinyModel model = tiny("llama", 16);
    if (new_style) {
      model.config.erase("rope_theta");
      model.config["rope_parameters"] = scaling;
      model.config["rope_parameters"]["rope_theta"] = 500.0;
    } else {
      model.config["rope_theta"] = 500.0;
      model.config["rope_scaling"] = scaling;
    }
    model.reference.frequencies =
        llama3_frequencies(plain_frequencies(500.0, 16), 8.0, 1.0, 4.0, 64.0);
    expect_equal_forward(model);
  }
}

TEST(Synthetic, MistralSeesAWindow) {
  for (const std::size_t window : {1, 7, 39, 40, 100}) {
    TinyModel model = tiny("mistral");
    model.config["sliding_window"] = window;
    model.reference.window = {window, window};
    expect_equal_forward(model);
  }
}

TEST(Synthetic, QwenHasBiasesAndATiedHead) {
  TinyModel model = tiny("qwen2");
  model.qkv_bias = model.tied = true;
  model.config["use_sliding_window"] = false;
  model.config["sliding_window"] = 7;
  model.config["max_window_layers"] = 1;
  expect_equal_forward(model);
}

TEST(Synthetic, QwenSlidesAfterItsFirstLayers) {
  for (const std::size_t first : {0, 1, 2}) {
    TinyModel model = tiny("qwen2");
    model.qkv_bias = true;
    model.config["use_sliding_window"] = true;
    model.config["sliding_window"] = 7;
    model.config["max_window_layers"] = first;
    model.reference.window = {first > 0 ? 0U : 7U, first > 1 ? 0U : 7U};
    expect_equal_forward(model);
  }
}

TEST(Synthetic, LayerTypesSayWhichLayersSlide) {
  TinyModel model = tiny("qwen2");
  model.qkv_bias = true;
  model.config["use_sliding_window"] = true;
  model.config["sliding_window"] = 5;
  model.config["layer_types"] = {"sliding_attention", "full_attention"};
  model.reference.window = {5, 0};
  expect_equal_forward(model);
}

}  // namespace
}  // namespace quern::test
