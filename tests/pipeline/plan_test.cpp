#include "pipeline/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/core/error.h"
#include "pipeline/plan_text.h"
#include "tests/pipeline/small_graph.h"

namespace quern::test {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

Plan plan_of(const std::vector<std::string>& overrides) {
  return make_plan(small_graph(), small_run(overrides));
}

std::vector<BundleUnit> bundles_of(const std::vector<double>& flops) {
  std::vector<BundleUnit> bundles(flops.size());
  for (std::size_t i = 0; i < flops.size(); ++i) bundles[i].solve_flops = flops[i];
  return bundles;
}

TEST(Assignment, GivesTheLongestFirstToWhoHasTheLeast) {
  // 7 -> 0, 5 -> 1, 4 -> 1 (5 < 7), 3 -> 0, 1 -> 1 (9 < 10).
  EXPECT_THAT(assign_owners(bundles_of({3, 7, 1, 5, 4}), 2), ElementsAre(0, 0, 1, 1, 1));
  // 7 -> 0, 5 -> 1, 4 -> 2, 3 -> 2 (4 is the least), 1 -> 1 (5 < 7).
  EXPECT_THAT(assign_owners(bundles_of({3, 7, 1, 5, 4}), 3), ElementsAre(2, 0, 1, 1, 2));
}

TEST(Assignment, TiesGoToTheLowerRankAndTheEarlierBundle) {
  EXPECT_THAT(assign_owners(bundles_of({2, 2, 2, 2}), 2), ElementsAre(0, 1, 0, 1));
  EXPECT_THAT(assign_owners(bundles_of({2, 2}), 4), ElementsAre(0, 1));
  EXPECT_THAT(assign_owners(bundles_of({1, 2, 3}), 1), ElementsAre(0, 0, 0));
  EXPECT_THAT(assign_owners(bundles_of({}), 3), IsEmpty());
}

TEST(Plan, HasOneBundlePerInputInOrder) {
  const Plan plan = plan_of({});
  ASSERT_THAT(plan.layers, SizeIs(4));
  EXPECT_THAT(plan.head, IsEmpty());
  std::vector<std::string> names;
  for (const BundleUnit& bundle : plan.layers[2].bundles) names.push_back(bundle.name);
  EXPECT_THAT(names, ElementsAre("layers/layer-002/bundle-00.h5", "layers/layer-002/bundle-01.h5",
                                 "layers/layer-002/bundle-02.h5", "layers/layer-002/bundle-03.h5"));
  const BundleUnit& attention = plan.layers[2].bundles[0];
  ASSERT_THAT(attention.modules, SizeIs(3));
  EXPECT_EQ(attention.modules[1].module.name, "model.layers.2.self_attn.k_proj");
  EXPECT_THAT(plan.stored_bundles(), SizeIs(16));
}

/// llama3m: hidden 192, feed-forward 512; 8 windows of 64 are 512 tokens; 4 bits, group 64.
TEST(Plan, FiguresAreThoseComputedByHand) {
  const LayerUnit layer = plan_of({}).layers[0];
  // q k v o 4 * 192^2, gate up down 3 * 192 * 512, two norms of 192.
  EXPECT_EQ(layer.weight_elems, 442752U);
  // Products: 2 * 442368 * 512. Attention: 4 * 512 tokens * 192 * 32 keys seen on average.
  EXPECT_DOUBLE_EQ(layer.forward_flops, 452984832.0 + 12582912.0);
  const auto& bundles = layer.bundles;
  EXPECT_DOUBLE_EQ(bundles[0].statistics_flops, 512.0 * 192 * 192);
  EXPECT_DOUBLE_EQ(bundles[3].statistics_flops, 512.0 * 512 * 512);
  // One factorisation K^3 / 3 and N K^2 per module.
  EXPECT_DOUBLE_EQ(bundles[0].solve_flops, 2359296.0 + 3 * 7077888.0);
  EXPECT_DOUBLE_EQ(bundles[2].solve_flops, 2359296.0 + 2 * 18874368.0);
  EXPECT_DOUBLE_EQ(bundles[3].solve_flops, 512.0 * 512 * 512 / 3 + 50331648.0);
  // Codes 18432, scales and zeros 3 * 192 * 3, groups 768, three times.
  EXPECT_EQ(bundles[0].state_bytes, 3U * 20928);
  EXPECT_EQ(bundles[3].state_bytes, 49152U + 8 * 192 * 3 + 2048);
}

TEST(Plan, SkippedModulesAreLeftOutAndEmptyBundlesAreNotStored) {
  const Plan plan =
      plan_of({"quantize.rules=[{match: '.*o_proj', skip: true}, "
               "{match: '.*layers.0.*up_proj', skip: true}]"});
  EXPECT_THAT(plan.stored_bundles(), SizeIs(12));
  EXPECT_THAT(plan.layers[0].bundles[1].modules, IsEmpty());
  EXPECT_THAT(plan.layers[0].bundles[2].modules, SizeIs(1));
  EXPECT_THAT(plan.layers[0].bundle_names(), SizeIs(3));
}

TEST(Plan, TheHeadIsABundleOfItsOwn) {
  const Plan plan = plan_of({"quantize.lm_head=true"});
  ASSERT_THAT(plan.head, SizeIs(1));
  EXPECT_EQ(plan.head[0].name, "layers/lm-head/bundle-00.h5");
  EXPECT_EQ(plan.head[0].modules[0].module.name, "lm_head");
  EXPECT_EQ(plan.head[0].modules[0].module.out_features, 4096);
  EXPECT_THAT(plan.stored_bundles(), SizeIs(17));
}

TEST(Plan, ATiedHeadCannotBePacked) {
  ModelGraph graph = small_graph();
  graph.geometry.tied_head = true;
  try {
    make_plan(graph, small_run({"quantize.lm_head=true"}));
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("quantize.lm_head"));
  }
}

TEST(Plan, WarnsOfWhatServersRefuse) {
  const auto warnings = [](const std::vector<std::string>& overrides) {
    return plan_of(overrides).warnings;
  };
  EXPECT_THAT(warnings({}), ElementsAre(HasSubstr("in features that are none of 128")));
  EXPECT_THAT(warnings({"quantize.bits=3"}), Contains(HasSubstr("3 bits")));
  EXPECT_THAT(warnings({"quantize.symmetric=false"}), Contains(HasSubstr("asymmetric")));
  EXPECT_THAT(warnings({"quantize.group_size=96"}), Contains(HasSubstr("group size 96")));
  const auto mixed = warnings({"quantize.rules=[{match: '.*1.*k_proj', bits: 8}]"});
  EXPECT_THAT(mixed, Contains(HasSubstr("model.layers.1.self_attn.q_proj")));
  EXPECT_THAT(mixed, Not(Contains(HasSubstr("model.layers.2"))));
  EXPECT_THAT(warnings({"quantize.rules=[{match: '.*up_proj', skip: true}]"}),
              Contains(HasSubstr("model.layers.0.mlp.gate_proj")));
  EXPECT_THAT(warnings({"output.format=dequantized", "quantize.bits=3"}), IsEmpty());
}

TEST(Plan, AFusedGroupMustShareSymmetryToo) {
  const Plan plan = plan_of({"quantize.rules=[{match: '.*v_proj', symmetric: false}]"});
  EXPECT_THAT(plan.warnings, Contains(HasSubstr("one scheme for all")));
}

TEST(Plan, AFormatWithoutPackingNeedsNoWarningOfFusion) {
  const Plan plan =
      plan_of({"output.format=dequantized", "quantize.rules=[{match: '.*v_proj', bits: 8}]"});
  EXPECT_THAT(plan.warnings, IsEmpty());
}

TEST(PlanText, NamesEveryModuleAndTheTotals) {
  const RunFile run = small_run({"quantize.lm_head=true"});
  const ModelGraph graph = small_graph();
  const nlohmann::json json = plan_json(graph, make_plan(graph, run), run, 2);
  const std::string text = plan_text(json);
  for (const LayerGraph& layer : graph.layers) {
    for (const LayerInput& input : layer.inputs) {
      for (const LinearModule& module : input.modules) EXPECT_THAT(text, HasSubstr(module.name));
    }
  }
  EXPECT_THAT(text, HasSubstr("lm_head [4096, 192] 4 bits, group 64"));
  EXPECT_THAT(text, HasSubstr("total, 2 ranks"));
  EXPECT_THAT(text, HasSubstr("warning: "));
  EXPECT_EQ(json.at("layers").size(), 4U);
  EXPECT_EQ(json.at("layers")[0].at("bundles")[3].at("owner"), 0);
  EXPECT_EQ(json.at("layers")[0].at("bundles")[2].at("owner"), 1);
}

}  // namespace
}  // namespace quern::test
