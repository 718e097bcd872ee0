#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/jobs/finished_run.h"
#include "workers/tensors/tensor_source.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;

using testing::HasSubstr;

/// A model as large as llama3m with its tokenizer.
class SynthesizeProgram : public testing::Test {
 protected:
  Command synthesize(const std::string& folder, const Command& more = {}) const {
    const std::string model = (source_dir() / "tests/data/llama3m").string();
    return Command{"synthesize", "--config",   model + "/config.json",
                   "--output",   path(folder), "--tokenizer",
                   model,        "--layers",   "2"} +
           more;
  }
  std::string path(const std::string& folder) const { return (folder_.path() / folder).string(); }

  TemporaryDirectory folder_;
};

TEST_F(SynthesizeProgram, ItsModelsAreQuantizedAndPlanned) {
  for (const char* dtype : {"bfloat16", "float8_e4m3"}) {
    const std::string name = dtype;
    const std::string said =
        answer_of(synthesize(name, {"--dtype", name, "--shard-size", "500KB", "--threads", "2"}));
    EXPECT_THAT(said, HasSubstr(path(name)));
    EXPECT_THAT(said, HasSubstr(" GB/s"));
    const RunFolder run(path(name), {"quantize.method=rtn"});
    const auto plan = json_answer_of(run.arguments("plan") + Command{"--json"});
    EXPECT_EQ(plan.at("layers").size(), 2U);
    run.finish(1);
    EXPECT_EQ(run.report().at("verify").at("passed"), true);
    const TensorSource output(run.output());
    EXPECT_TRUE(output.contains("model.layers.1.mlp.down_proj.qweight"));
    EXPECT_FALSE(output.contains("model.layers.1.mlp.down_proj.weight_scale_inv"));
  }
}

TEST_F(SynthesizeProgram, MistakesHaveTheirExitCodes) {
  EXPECT_EQ(run_process(quern(1, synthesize("a", {"--dtype", "int4"}))).exit_code, 64);
  EXPECT_EQ(run_process(quern(1, {"synthesize", "--config", path("none"), "--output", path("a")}))
                .exit_code,
            65);
  fs::create_directory(path("full"));
  replace_contents(fs::path(path("full")) / "file", "text");
  const ProcessResult refused = run_process(quern(1, synthesize("full")));
  EXPECT_EQ(refused.exit_code, 64);
  EXPECT_THAT(refused.err, HasSubstr("is not empty"));
}

}  // namespace
}  // namespace quern::test
