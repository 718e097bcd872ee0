#include "pipeline/device/device_needs.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "pipeline/device/device_refusal.h"
#include "tests/pipeline/small_graph.h"

namespace quern::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr std::uint64_t kGiga = 1'000'000'000;

/// The shape of LLaMA-65B.
ModelGraph large_graph() {
  const nlohmann::json config = {{"architectures", {"LlamaForCausalLM"}},
                                 {"model_type", "llama"},
                                 {"hidden_size", 8192},
                                 {"intermediate_size", 22016},
                                 {"num_hidden_layers", 80},
                                 {"num_attention_heads", 64},
                                 {"vocab_size", 32000},
                                 {"max_position_embeddings", 2048},
                                 {"rms_norm_eps", 1e-5},
                                 {"hidden_act", "silu"},
                                 {"tie_word_embeddings", false},
                                 {"torch_dtype", "bfloat16"}};
  return make_model_graph(config, {}, "config.json");
}

RunFile large_run(const std::vector<std::string>& overrides = {}) {
  std::vector<std::string> settings = {
      "calibration.samples=128", "calibration.sequence_length=2048", "quantize.group_size=128"};
  settings.insert(settings.end(), overrides.begin(), overrides.end());
  return small_run(settings);
}

DeviceNeeds needs_of(const ModelGraph& graph, const RunFile& run, const DeviceUse& use = {}) {
  return device_needs(graph, make_plan(graph, run), run, use);
}

std::string refusal_of(const ModelGraph& graph, const RunFile& run, std::uint64_t limit) {
  return device_refusal(graph, make_plan(graph, run), run, {}, limit);
}

TEST(DeviceNeeds, AreThoseComputedByHand) {
  const DeviceNeeds needs = needs_of(small_graph(), small_run());
  EXPECT_EQ(needs.weight_bytes, 2U * 2 * 442752) << "bf16, two layers";
  EXPECT_EQ(needs.statistics_bytes, 8U * 512 * 512) << "one input at a time";
  EXPECT_EQ(needs.state_bytes, 2U * 128 * (192 + 512)) << "residual and widest input";
  EXPECT_EQ(needs.rounds, 4);
  EXPECT_EQ(needs.layer_input_bytes, 0U);
  EXPECT_GT(needs.work_bytes, 8U * 512 * 512) << "a factor of the widest input's H";
  EXPECT_EQ(needs.most_bytes(), needs.least_bytes() + 4 * needs.state_bytes);
  EXPECT_EQ(needs_of(small_graph(), small_run(), {.ranks = 3}).rounds, 2);
  EXPECT_EQ(needs_of(small_graph(), small_run(), {.activation = DType::f32}).state_bytes,
            2 * needs.state_bytes);
}

TEST(DeviceNeeds, AllInputsOfALayerAreMeasuredTogetherWithoutTrueSequential) {
  const DeviceNeeds needs = needs_of(small_graph(), small_run({"quantize.true_sequential=false"}));
  EXPECT_EQ(needs.statistics_bytes, 8U * (3 * 192 * 192 + 512 * 512));
  EXPECT_EQ(needs.state_bytes, 2U * 128 * (192 + 192)) << "between layers";
  const DeviceNeeds original =
      needs_of(small_graph(),
               small_run({"quantize.true_sequential=false", "quantize.propagation=original"}));
  EXPECT_EQ(original.state_bytes, 2 * needs.state_bytes) << "before and after a layer";
}

/// Three of the four inputs of a layer are as wide.
TEST(DeviceNeeds, FactorsMadeAtOnceCount) {
  const std::vector<std::string> once = {"quantize.true_sequential=false"};
  const ModelGraph graph = large_graph();
  const std::uint64_t factor = 8U * 8192 * 8192;
  const auto work = [&](const std::vector<std::string>& settings, int ranks) {
    return needs_of(graph, large_run(settings), {.ranks = ranks}).work_bytes;
  };
  EXPECT_EQ(work(once, 1), work({}, 1) + factor) << "two at once";
  EXPECT_EQ(work(once, 4), work({}, 4)) << "one for each rank";
}

TEST(DeviceNeeds, TablesKeepEveryLayersInput) {
  const RunFile run = small_run({"quantize.method=squeezellm", "quantize.group_size=128",
                                 "output.format=squeezellm_safetensors"});
  const DeviceNeeds needs = needs_of(small_graph(), run);
  EXPECT_EQ(needs.statistics_bytes, 8U * (4 * 192 * 192 + 3 * 192 * 512)) << "F of a layer";
  EXPECT_EQ(needs.state_bytes, 2U * 128 * 2 * 192) << "two gradients";
  EXPECT_EQ(needs.layer_input_bytes, 2U * 128 * 192 * 4);
}

TEST(DeviceNeeds, TheLargestLlamaFitsInto24Gigabytes) {
  const ModelGraph graph = large_graph();
  for (const char* micro_batch : {"1", "2", "4"}) {
    const RunFile run = large_run({std::string("calibration.micro_batch=") + micro_batch});
    const DeviceNeeds needs = needs_of(graph, run);
    EXPECT_EQ(needs.statistics_bytes, 8U * 22016 * 22016);
    EXPECT_EQ(needs.weight_bytes, 4U * (4U * 8192 * 8192 + 3U * 8192 * 22016 + 2 * 8192));
    EXPECT_GT(needs.work_bytes, needs.statistics_bytes) << "a factor in float64 at least";
    EXPECT_LT(needs.least_bytes(), 16 * kGiga);
    EXPECT_THAT(refusal_of(graph, run, 24 * kGiga), IsEmpty());
    const DevicePlacement placement = place_on_device(needs, 24 * kGiga);
    EXPECT_GT(placement.states_on_device, needs.rounds / 4);
    EXPECT_LT(placement.states_on_device, needs.rounds);
    EXPECT_EQ(
        placement.host_bytes,
        static_cast<std::uint64_t>(needs.rounds - placement.states_on_device) * needs.state_bytes);
  }
  const RunFile all_at_once = large_run({"quantize.true_sequential=false"});
  EXPECT_THAT(refusal_of(graph, all_at_once, 24 * kGiga), IsEmpty());
}

TEST(DevicePlacement, FillsTheLimitAndNeverExceedsIt) {
  DeviceNeeds needs{
      .weight_bytes = 100, .statistics_bytes = 50, .work_bytes = 40, .backend_bytes = 10};
  needs.state_bytes = 7;
  needs.layer_input_bytes = 30;
  needs.rounds = 5;
  EXPECT_EQ(needs.least_bytes(), 200U);
  for (std::uint64_t limit = 190; limit < 500; ++limit) {
    const DevicePlacement placement = place_on_device(needs, limit);
    const std::uint64_t left = limit > 200 ? limit - 200 : 0;
    const std::uint64_t states = std::min<std::uint64_t>(5, left / 7);
    EXPECT_EQ(placement.states_on_device, static_cast<std::int64_t>(states)) << limit;
    EXPECT_EQ(placement.host_bytes, (5 - states) * 7) << limit;
    EXPECT_EQ(placement.layer_input_bytes, std::min<std::uint64_t>(150, left - 7 * states));
  }
}

TEST(DevicePlacement, WithoutALimitLayerInputsCountAsTheHosts) {
  DeviceNeeds needs{.weight_bytes = 100};
  needs.state_bytes = 7;
  needs.layer_input_bytes = 30;
  needs.rounds = 5;
  const DevicePlacement placement =
      place_on_device(needs, std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(placement.states_on_device, 5);
  EXPECT_EQ(placement.host_bytes, 0U);
  EXPECT_EQ(placement.layer_input_bytes, 0U);
}

TEST(DeviceRefusal, SaysWhatIsNeededAndWhatWouldFit) {
  const ModelGraph graph = large_graph();
  const RunFile run = large_run({"calibration.micro_batch=64", "run.gpu_memory=15GB"});
  const auto gigabytes = [&](const char* micro_batch) {
    const std::string setting = std::string("calibration.micro_batch=") + micro_batch;
    return static_cast<double>(needs_of(graph, large_run({setting})).least_bytes()) / 1e9;
  };
  const std::string refusal = refusal_of(graph, run, 15 * kGiga);
  EXPECT_THAT(refusal, HasSubstr(fmt::format(
                           "the run needs {:.2f} GB with calibration.micro_batch 64, {:.2f} GB "
                           "with 1; run.gpu_memory allows 15.00 GB. calibration.micro_batch: ",
                           gigabytes("64"), gigabytes("1"))));
  EXPECT_THAT(refusal, HasSubstr(" fits; or use a device with more memory"));
  EXPECT_THAT(refusal, HasSubstr("statistics 3.88 GB"));
  EXPECT_THAT(refusal_of(graph, large_run({"calibration.micro_batch=64"}), 15 * kGiga),
              HasSubstr("; 15.00 GB are free on the device. "));
}

TEST(DeviceRefusal, NamesTheLargestMicroBatchThatFits) {
  const ModelGraph graph = large_graph();
  const std::uint64_t of_ten =
      needs_of(graph, large_run({"calibration.micro_batch=40"})).least_bytes();
  EXPECT_THAT(refusal_of(graph, large_run({"calibration.micro_batch=100"}), of_ten),
              HasSubstr("calibration.micro_batch: 40 fits"));
  EXPECT_THAT(refusal_of(graph, large_run({"calibration.micro_batch=40"}), of_ten), IsEmpty());
}

TEST(DeviceRefusal, SaysThatNothingFits) {
  const std::string refusal = refusal_of(large_graph(), large_run(), 5 * kGiga);
  EXPECT_THAT(refusal, HasSubstr("No micro-batch is small enough"));
  const std::string of_one =
      refusal_of(large_graph(), large_run({"calibration.micro_batch=1"}), 5 * kGiga);
  EXPECT_THAT(of_one,
              AllOf(HasSubstr("with calibration.micro_batch 1;"), Not(HasSubstr("with 1"))));
}

TEST(DeviceRefusal, CoversTheEvaluation) {
  const ModelGraph graph = large_graph();
  const RunFile run = large_run(
      {"evaluate.source=t.txt", "evaluate.sequence_length=2048", "evaluate.micro_batch=400"});
  EXPECT_THAT(refusal_of(graph, run, 24 * kGiga),
              AllOf(HasSubstr("the evaluation needs"), HasSubstr("with evaluate.micro_batch 400"),
                    HasSubstr("evaluate.micro_batch: ")));
}

}  // namespace
}  // namespace quern::test
