#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/jobs/finished_run.h"

namespace quern::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;

/// The other subcommands on a run of squeezellm, made once for each format.
class SqueezeLlmRun : public testing::TestWithParam<std::string> {
 protected:
  struct Made {
    explicit Made(const std::string& format)
        : run(model.path(),
              squeezellm(format, evaluation_settings() +
                                     Command{"quantize.bits=3", "quantize.sparsity=0.0045"})) {
      run.finish(2);
    }
    TwoLayerModel model;
    RunFolder run;
  };

  static const RunFolder& run() {
    static std::map<std::string, Made> made;
    return made.try_emplace(GetParam(), GetParam()).first->second.run;
  }
  static json evaluated(const Command& more) {
    return json_answer_of(run().arguments("evaluate") + more + Command{"--json"});
  }
};

TEST_P(SqueezeLlmRun, HasAStatus) {
  const json now = json_answer_of({"status", run().directory().string(), "--json"});
  EXPECT_EQ(now.at("state"), "finished");
  EXPECT_EQ(now.at("committed"), 8);
  EXPECT_EQ(now.at("total"), 8);
}

TEST_P(SqueezeLlmRun, Verifies) {
  const std::string whole =
      ".*/out: 14 quantized modules, 7 other tensors, [0-9]+ files: verified\n";
  EXPECT_THAT(answer_of(run().arguments("verify")), MatchesRegex(whole));
  EXPECT_THAT(answer_of({"verify", run().output().string()}),
              MatchesRegex(".*/out: [0-9]+ files as in SHA256SUMS: verified\n"));
}

TEST_P(SqueezeLlmRun, EvaluatesAlikeFromStateAndOutput) {
  const json output = evaluated({"--folder", run().output().string()});
  EXPECT_EQ(evaluated({"--what", "output"}), output);
  EXPECT_EQ(evaluated({"--what", "run"}), output);
  const json report = run().report().at("perplexity");
  EXPECT_EQ(output, report.at("after"));
  EXPECT_EQ(evaluated({"--what", "original"}), report.at("before"));
  EXPECT_LT(output.at("perplexity").get<double>(),
            1.2 * report.at("before").at("perplexity").get<double>());
}

TEST_P(SqueezeLlmRun, IsPlanned) {
  const json plan = json_answer_of(run().arguments("plan") + Command{"--json"});
  EXPECT_EQ(plan.at("layers").at(1).at("bundles").at(3).at("modules").at(0),
            json({{"name", "model.layers.1.mlp.down_proj"},
                  {"out_features", 192},
                  {"in_features", 512},
                  {"bits", 3}}));
  const json output = run().report().at("output");
  const auto written = output.at("bytes").get<double>();
  EXPECT_NEAR(plan.at("disk").at("output").get<double>(), written, 0.03 * written);
  const std::string text = answer_of(run().arguments("plan"));
  EXPECT_THAT(text, HasSubstr("model.layers.1.mlp.down_proj [192, 512] 3 bits\n"));
  EXPECT_THAT(text, Not(HasSubstr("group")));
  EXPECT_THAT(text, HasSubstr("total, 1 rank\n"));
}

INSTANTIATE_TEST_SUITE_P(Formats, SqueezeLlmRun,
                         testing::Values("squeezellm", "squeezellm_safetensors"),
                         [](const auto& format) { return format.param; });

}  // namespace
}  // namespace quern::test
