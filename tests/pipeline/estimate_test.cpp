#include "pipeline/estimate.h"

#include <gtest/gtest.h>

#include "tests/pipeline/small_graph.h"

namespace quern::test {
namespace {

/// llama3m, four layers alike; see plan_test.cpp for the figures of one.
TEST(Estimate, AddsUpTheFiguresOfTheLayers) {
  const RunFile run = small_run();
  const ModelGraph graph = small_graph();
  const Estimate one = estimate(graph, make_plan(graph, run), run, 1);
  EXPECT_DOUBLE_EQ(one.forward_flops, 4 * 465567744.0);
  EXPECT_DOUBLE_EQ(one.statistics_flops, 4 * (3 * 18874368.0 + 134217728.0));
  EXPECT_EQ(one.state_bytes, 4U * 248576);
  EXPECT_EQ(one.weight_bytes, 442752U * 8);         // float32, twice
  EXPECT_EQ(one.statistics_bytes, 8U * 512 * 512);  // one input at a time
  EXPECT_EQ(one.solver_bytes, 2U * 8 * 512 * 512 + 3 * 8 * 512 * 192);
  // Residual and widest input of all 512 tokens, and the work space of a micro-batch of 128.
  EXPECT_EQ(one.activation_bytes, 4U * (512 * 192 + 512 * 512 + 128 * (192 + 3 * 512)));
  EXPECT_EQ(one.peak_rank_bytes(),
            one.activation_bytes + one.weight_bytes + one.statistics_bytes + one.solver_bytes);
  // bf16: embedding, head, final norm and what is not packed; then the packed state.
  EXPECT_EQ(one.output_bytes, 2U * (2 * 4096 * 192 + 192 + 4 * 384) + 4 * 248576);
  const Estimate three = estimate(graph, make_plan(graph, run), run, 3);
  EXPECT_EQ(three.activation_bytes, 4U * (256 * 192 + 256 * 512 + 128 * (192 + 3 * 512)));
  EXPECT_EQ(three.output_bytes, one.output_bytes);
}

TEST(Estimate, Float64TakesTwiceTheMemoryOfFloat32) {
  const ModelGraph graph = small_graph();
  for (const char* method : {"quantize.method=gptq", "quantize.propagation=original"}) {
    const RunFile single = small_run({method});
    RunFile wide = single;
    wide.run.activation_type = ActivationType::float64;
    const Estimate narrow = estimate(graph, make_plan(graph, single), single, 1);
    const Estimate twice = estimate(graph, make_plan(graph, wide), wide, 1);
    EXPECT_EQ(twice.activation_bytes, 2 * narrow.activation_bytes);
    EXPECT_EQ(twice.weight_bytes, 2 * narrow.weight_bytes);
    EXPECT_EQ(twice.statistics_bytes, narrow.statistics_bytes);
  }
}

TEST(Estimate, DequantizedOutputIsAsLargeAsTheModel) {
  const RunFile run = small_run({"output.format=dequantized"});
  const ModelGraph graph = small_graph();
  EXPECT_EQ(estimate(graph, make_plan(graph, run), run, 1).output_bytes,
            2U * (2 * 4096 * 192 + 192 + 4 * 442752));
}

TEST(Estimate, RoundingNeedsNoStatistics) {
  const RunFile run = small_run({"quantize.method=rtn"});
  const ModelGraph graph = small_graph();
  const Estimate estimated = estimate(graph, make_plan(graph, run), run, 1);
  EXPECT_EQ(estimated.statistics_flops, 0.0);
  EXPECT_EQ(estimated.statistics_bytes, 0U);
}

}  // namespace
}  // namespace quern::test
