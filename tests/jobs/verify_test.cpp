#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/jobs/finished_run.h"
#include "workers/files/hash.h"
#include "workers/tensors/tensor_source.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;

using testing::AllOf;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;

const std::string kModule = "model.layers.1.mlp.gate_proj";

/// A finished run whose output the test may damage.
class Verify : public testing::Test {
 protected:
  explicit Verify(const Command& settings = {}) : run_(model_.path(), settings) { run_.finish(1); }

  Command of_run() const { return run_.arguments("verify"); }
  Command of_folder() const { return {"verify", run_.output().string()}; }

  /// Changes one bit of a tensor's first byte, or of another. Returns the name of its file.
  std::string damage(const std::string& tensor, std::uint64_t offset = 0) const {
    const TensorSource source(run_.output());
    const std::string file = source.shard_name(tensor);
    std::string bytes = contents_of(run_.output() / file);
    char& byte = bytes[source.entry(tensor).begin + offset];
    byte = static_cast<char>(byte ^ 1);
    replace_contents(run_.output() / file, bytes);
    return file;
  }

  /// What someone would do who wants the damage to go unnoticed.
  void correct_sums(const std::string& file) const {
    std::string sums = contents_of(run_.output() / "SHA256SUMS");
    sums.replace(sums.find("  " + file + "\n") - 64, 64, sha256_file(run_.output() / file));
    replace_contents(run_.output() / "SHA256SUMS", sums);
  }

  void expect_refusal(const Command& arguments, const std::vector<std::string>& fragments) const {
    const ProcessResult result = run_process(quern(1, arguments));
    EXPECT_EQ(result.exit_code, 65) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, HasSubstr("quern: error: " + run_.output().string()));
    for (const std::string& fragment : fragments) EXPECT_THAT(result.err, HasSubstr(fragment));
  }

  TwoLayerModel model_;
  RunFolder run_;
};

TEST_F(Verify, AcceptsWhatWasWritten) {
  EXPECT_THAT(answer_of(of_run()),
              MatchesRegex(".*/out: 14 quantized modules, 7 other tensors, [0-9]+ files: "
                           "verified\n"));
  EXPECT_THAT(answer_of(of_folder()),
              MatchesRegex(".*/out: [0-9]+ files as in SHA256SUMS: verified\n"));
}

TEST_F(Verify, NamesTheFileAndTheModuleOfAFlippedBit) {
  const std::string file = damage(kModule + ".qweight");
  const std::string line = "file '" + file + "' does not match SHA256SUMS";
  expect_refusal(of_folder(), {line, "1 problem"});
  expect_refusal(of_run(),
                 {line, "module '" + kModule + "' decodes to other values", "2 problems"});
}

TEST_F(Verify, NamesTheModuleOfAChangedScaleWithCorrectedSums) {
  correct_sums(damage(kModule + ".scales"));
  EXPECT_THAT(answer_of(of_folder()), HasSubstr("verified"));
  expect_refusal(of_run(), {"module '" + kModule + "' decodes to other values", "1 problem"});
}

TEST_F(Verify, NamesAnUnquantizedTensorThatDiffers) {
  correct_sums(damage("model.layers.0.input_layernorm.weight"));
  expect_refusal(of_run(), {"tensor 'model.layers.0.input_layernorm.weight' differs"});
}

TEST_F(Verify, NamesATensorOnceThatDiffersInSeveralParts) {
  const std::string name = "model.embed_tokens.weight";  // large enough to be read in parts
  const std::uint64_t last = TensorSource(run_.output()).entry(name).bytes - 1;
  for (const std::uint64_t offset : {last / 2, last}) correct_sums(damage(name, offset));
  expect_refusal(of_run(), {"tensor '" + name + "' differs", "1 problem"});
  const ProcessResult result = run_process(quern(3, of_run()));
  EXPECT_THAT(result.err, AllOf(HasSubstr("tensor '" + name + "' differs"), HasSubstr("1 problem"),
                                Not(HasSubstr("problems"))));
}

class VerifyDequantized : public Verify {
 protected:
  VerifyDequantized() : Verify({"output.format=dequantized"}) {}
};

TEST_F(VerifyDequantized, NamesTheModuleOfAValueThatIsNotTheNearest) {
  EXPECT_THAT(answer_of(of_run()), HasSubstr(": verified\n"));
  const std::uint64_t last = TensorSource(run_.output()).entry(kModule + ".weight").bytes - 1;
  correct_sums(damage(kModule + ".weight", last - 1));  // the lowest bit of the last value
  expect_refusal(of_run(), {"module '" + kModule + "' decodes to other values", "1 problem"});
}

TEST_F(Verify, NamesMissingAndUnlistedFiles) {
  fs::remove(run_.output() / "generation_config.json");
  replace_contents(run_.output() / "stray.txt", "stray");
  expect_refusal(of_folder(), {"file 'generation_config.json' is listed in SHA256SUMS but missing",
                               "file 'stray.txt' is not listed in SHA256SUMS", "2 problems"});
}

TEST_F(Verify, RefusesATruncatedShard) {
  const std::string file = damage(kModule + ".qweight");
  fs::resize_file(run_.output() / file, 100);
  const std::string line = "file '" + file + "' does not match SHA256SUMS";
  expect_refusal(of_folder(), {line, "1 problem"});
  expect_refusal(of_run(), {line, "1 problem"});
}

}  // namespace
}  // namespace quern::test
