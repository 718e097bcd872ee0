#include "pipeline/flows/fisher_flow.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "tests/pipeline/small_graph.h"
#include "tests/workers/test_session.h"

namespace quern::test {
namespace {

/// Keeps what it is told.
class Listener : public Watchdog {
 public:
  explicit Listener(std::vector<std::string>& activities) : activities_(activities) {}
  void enter(std::string_view activity) override { activities_.emplace_back(activity); }

 private:
  std::vector<std::string>& activities_;
};

/// Four windows of 16 tokens of llama3m.
class FisherWalk : public testing::Test {
 protected:
  FisherWalk()
      : run_(small_run({"quantize.method=squeezellm", "quantize.group_size=128",
                        "output.format=squeezellm_safetensors",
                        "run.directory=" + directory_.path().string()})),
        model_(open_model(source_dir() / "tests/data/llama3m", {}, DType::f32)),
        plan_(make_plan(model_.graph, run_)),
        store_(directory_.path()),
        context_{session_, run_, model_, plan_, store_, watch_, {}},
        progress_(session_.log, {.enabled = false}) {
    session_.watchdog = std::make_unique<Listener>(activities_);
  }

  static MicroBatches batches() {
    HostTensor ids(DType::i32, {4, 16});
    const auto values = ids.as<std::int32_t>();
    std::iota(values.begin(), values.end(), 5);
    return MicroBatches(std::move(ids), 2);
  }

  /// Layers whose statistics were handed over, in order.
  std::vector<std::int64_t> walk(std::span<const BundleUnit* const> wanted) {
    const MicroBatches all = batches();
    std::vector<std::int64_t> layers;
    FisherFlow(context_, all, {.fisher = true}, progress_)
        .run(wanted, [&](const std::vector<MeasuredBundle>& measured, const LayerWeights&) {
          layers.push_back(std::stoll(measured.front().bundle->name.substr(13, 3)));
        });
    return layers;
  }

  TemporaryDirectory directory_;
  Session session_ = quiet_session();
  std::vector<std::string> activities_;
  RunFile run_;
  OpenModel model_;
  Plan plan_;
  StateStore store_;
  Stopwatch watch_;
  RunContext context_;
  Progress progress_;
};

TEST_F(FisherWalk, SaysWhereItIs) {
  EXPECT_EQ(walk(plan_.stored_bundles()), (std::vector<std::int64_t>{3, 2, 1, 0}));
  std::vector<std::string> expected;
  for (int layer = 1; layer <= 4; ++layer) {
    expected.push_back(fmt::format("forward layer {} of 4: load weights", layer));
    expected.push_back(fmt::format("forward layer {} of 4", layer));
  }
  expected.emplace_back("gradient of the loss");
  for (int layer = 1; layer <= 4; ++layer) {
    expected.push_back(fmt::format("backward layer {} of 4: load weights", layer));
    expected.push_back(fmt::format("backward layer {} of 4", layer));
    expected.push_back(fmt::format("backward layer {} of 4: reduce F", layer));
  }
  EXPECT_EQ(activities_, expected);
}

/// The walk back ends at the lowest layer that is wanted.
TEST_F(FisherWalk, CountsTheLayersItGoesBack) {
  const std::vector<const BundleUnit*> last = {&plan_.layers[3].bundles[1]};
  EXPECT_EQ(walk(last), std::vector<std::int64_t>{3});
  EXPECT_THAT(activities_, testing::Contains("backward layer 1 of 1"));
  EXPECT_THAT(activities_, testing::Contains("forward layer 4 of 4"));
}

}  // namespace
}  // namespace quern::test
