#include "pipeline/identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/core/error.h"
#include "tests/pipeline/small_graph.h"
#include "workers/files/atomic_file.h"
#include "workers/files/json_file.h"

namespace quern::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

OpenModel small_model() {
  return open_model(source_dir() / "tests/data/llama3m", {});
}

nlohmann::json identity_of(const std::vector<std::string>& overrides,
                           const std::string& tokens = "0123", const std::string& cpu = "cpu a") {
  return make_identity(small_run(overrides), small_model(), tokens, cpu);
}

class SettleIdentity : public testing::Test {
 protected:
  bool settle(const nlohmann::json& identity, const std::vector<std::string>& overrides = {}) {
    const RunConfig run = small_run(overrides).run;
    return settle_identity({.directory = directory_.path(),
                            .key = "run.directory",
                            .contents = "a run",
                            .resume = run.resume,
                            .ignore_numerics = run.ignore_numerics},
                           identity);
  }
  std::string refusal(const nlohmann::json& identity,
                      const std::vector<std::string>& overrides = {}) {
    try {
      settle(identity, overrides);
    } catch (const ConfigError& error) {
      return error.what();
    } catch (const std::exception& error) {
      return std::string("another exception: ") + error.what();
    }
    return "nothing was thrown";
  }
  TemporaryDirectory directory_;
};

TEST_F(SettleIdentity, TheFirstRunWritesItAndTheNextResumes) {
  EXPECT_FALSE(settle(identity_of({})));
  EXPECT_EQ(read_json_file(directory_.path() / "identity.json"), identity_of({}));
  EXPECT_TRUE(settle(identity_of({})));
}

TEST_F(SettleIdentity, EveryDifferenceIsListedThenAndNow) {
  settle(identity_of({}));
  const std::string message = refusal(identity_of(
      {"quantize.bits=3", "quantize.rules=[{match: 'a', bits: 8}]", "calibration.seed=7"}, "4567"));
  EXPECT_THAT(message, AllOf(HasSubstr(directory_.path().string()),
                             HasSubstr("quantize.bits: 4 in the run directory, 3 now"),
                             HasSubstr("calibration.seed: 0 in the run directory, 7 now"),
                             HasSubstr("calibration_tokens: \"0123\" in the run directory, "
                                       "\"4567\" now"),
                             HasSubstr("quantize.rules.0.bits: \"absent\" in the run directory, "
                                       "8 now")));
  EXPECT_THAT(message, Not(HasSubstr("group_size")));
  EXPECT_THAT(message, Not(HasSubstr("ignore_numerics")));
}

TEST_F(SettleIdentity, AnotherModelIsAnotherRun) {
  settle(identity_of({}));
  nlohmann::json other = identity_of({});
  other["model"]["checkpoint"] = "ffff";
  EXPECT_THAT(refusal(other), HasSubstr("model.checkpoint"));
}

TEST_F(SettleIdentity, OtherNumericsPassOnlyWhenAccepted) {
  settle(identity_of({}));
  const nlohmann::json other = identity_of({}, "0123", "cpu b");
  EXPECT_THAT(refusal(other),
              AllOf(HasSubstr("numerics.backend: \"cpu a\""), HasSubstr("run.ignore_numerics")));
  EXPECT_TRUE(settle(other, {"run.ignore_numerics=true"}));
  EXPECT_THAT(
      refusal(identity_of({"quantize.bits=2"}, "0123", "cpu b"), {"run.ignore_numerics=true"}),
      HasSubstr("quantize.bits"));
}

TEST_F(SettleIdentity, ResumeForbidsOrRequiresAnEarlierRun) {
  EXPECT_THAT(refusal(identity_of({}), {"run.resume=required"}), HasSubstr("no earlier run"));
  settle(identity_of({}));
  EXPECT_TRUE(settle(identity_of({}), {"run.resume=required"}));
  EXPECT_THAT(refusal(identity_of({}), {"run.resume=never"}), HasSubstr("holds an earlier run"));
}

TEST_F(SettleIdentity, AFileThatIsNoIdentityIsADifference) {
  write_text_file(directory_.path() / "identity.json", "[]\n");
  EXPECT_THAT(refusal(identity_of({})), HasSubstr("other settings"));
  EXPECT_THAT(refusal(identity_of({}), {"run.ignore_numerics=true"}), HasSubstr("other settings"));
}

TEST(Identity, KnowsNoTopologyAndNoPlace) {
  const nlohmann::json identity = identity_of({});
  EXPECT_EQ(identity, identity_of({"run.threads=3", "run.log_level=debug", "run.directory=q",
                                   "output.path=elsewhere", "output.format=dequantized"}));
  EXPECT_NE(identity, identity_of({"calibration.micro_batch=4"}));
  EXPECT_NE(identity, identity_of({"quantize.damping=0.02"}));
}

TEST(Provenance, AddsToolAndFormat) {
  const nlohmann::json identity = identity_of({});
  nlohmann::json provenance = make_provenance(identity, {.path = "a"});
  EXPECT_THAT(provenance.at("tool").get<std::string>(), testing::StartsWith("quern "));
  EXPECT_EQ(provenance.at("output").at("format"), "gptq");
  EXPECT_NE(provenance,
            make_provenance(identity, {.path = "a", .format = OutputFormat::dequantized}));
}

}  // namespace
}  // namespace quern::test
