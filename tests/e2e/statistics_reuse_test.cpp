#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/e2e/squeezellm_variants.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

constexpr int kInputs = 8;  // four of each of two layers

/// Runs that share a directory of statistics.
class SharedStatistics : public testing::Test {
 protected:
  static const fs::path& model() {
    static const TwoLayerModel kModel;
    return kModel.path();
  }
  fs::path directory() const { return folder_.path() / "statistics"; }
  Command shared(const Command& settings) const {
    return settings + Command{"run.statistics_directory=" + directory().string()};
  }
  Command kept(const Command& settings) const {
    return shared(settings) + Command{"run.statistics=keep"};
  }

  /// A run of its own directory; it must write what one that measures for itself does.
  std::string expect_same_bytes(int ranks, const Command& settings, int measured) const {
    const RunFolder run(model(), shared(settings));
    const std::string log = run.finish(ranks).err;
    EXPECT_EQ(run.report().at("statistics"),
              nlohmann::json({{"reused", kInputs - measured}, {"measured", measured}}));
    EXPECT_EQ(run.output_hashes(), undisturbed_output(model(), 1, settings));
    return log;
  }

  /// The same commit steps, in another place.
  static Command kept_elsewhere() { return paper_rule().settings + Command{"run.statistics=keep"}; }

  ProcessResult quantize(const fs::path& model, const Command& settings) const {
    const RunFolder run(model, shared(settings));
    const ProcessResult result = run_process(quern(1, run.quantize()));
    EXPECT_FALSE(fs::exists(run.output()));
    return result;
  }

 private:
  TemporaryDirectory folder_;
};

TEST_F(SharedStatistics, OfGradientsServeOtherBitsAndOutliers) {
  const RunFolder first(model(), kept(squeezellm("squeezellm")));
  first.finish(2);
  EXPECT_EQ(first.report().at("statistics"),
            nlohmann::json({{"reused", 0}, {"measured", kInputs}}));
  EXPECT_EQ(first.output_hashes(), undisturbed_output(model(), 1, squeezellm("squeezellm")));
  EXPECT_THAT(expect_same_bytes(3, paper_rule().settings, 0),
              HasSubstr("statistics of 8 of 8 layer inputs are at hand: reused"));
  EXPECT_THAT(expect_same_bytes(1, target_bits().settings, 0), HasSubstr("reused"));
  EXPECT_EQ(bundle_files(directory()).size(), std::size_t{kInputs}) << "nothing came or went";
}

TEST_F(SharedStatistics, OfInputsServeOtherBits) {
  const Command settings = {"quantize.propagation=original", "quantize.true_sequential=false"};
  RunFolder(model(), kept(settings)).finish(1);
  // On three ranks one of them has a bundle more than the others.
  for (const int ranks : {2, 3}) {
    expect_same_bytes(ranks, settings + Command{"quantize.bits=3"}, 0);
  }
  // Gradients are another statistic of the same model and text, in the same directory.
  expect_same_bytes(1, squeezellm("squeezellm", {"quantize.bits=3"}), kInputs);
}

TEST_F(SharedStatistics, AreMeasuredAgainWhereDamaged) {
  RunFolder(model(), kept(squeezellm("squeezellm"))).finish(1);
  const std::vector<fs::path> files = bundle_files(directory());
  std::string bytes = contents_of(files.at(1));
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 4);
  replace_contents(files[1], bytes);
  fs::resize_file(files.at(2), 700);
  fs::remove(files.at(6));
  const std::string log =
      expect_same_bytes(2, paper_rule().settings + Command{"run.statistics=keep"}, 3);
  for (const std::size_t i : {1U, 2U, 6U}) {
    const std::string name = files[i].lexically_relative(directory()).string();
    EXPECT_THAT(log, HasSubstr(name + " is damaged"));
  }
  EXPECT_THAT(log, HasSubstr("statistics of 5 of 8 layer inputs are at hand: reused"));
  EXPECT_EQ(contents_of(files[1].string() + ".damaged-1"), bytes);
  expect_same_bytes(1, paper_rule().settings, 0);
}

TEST_F(SharedStatistics, AreNotThoseOfAnotherModelOrText) {
  const Command settings = squeezellm("squeezellm");
  RunFolder(model(), kept(settings)).finish(1);
  const auto refused = [&](const ProcessResult& result, const char* key) {
    EXPECT_EQ(result.exit_code, 64) << result.err;
    EXPECT_THAT(result.err, AllOf(HasSubstr("run.statistics_directory: " + directory().string()),
                                  HasSubstr("holds statistics with other settings"),
                                  HasSubstr("in the statistics directory, "), HasSubstr(key)));
  };
  refused(quantize(model(), settings + Command{"calibration.seed=3"}), "calibration.seed: 0");
  const std::string text = (source_dir() / "tests/data/evaluation.txt").string();
  refused(quantize(model(), settings + Command{"calibration.source=" + text}),
          "calibration_tokens");
  const TwoLayerModel other;
  std::string bytes = contents_of(other.path() / "model.safetensors");
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  replace_contents(other.path() / "model.safetensors", bytes);
  refused(quantize(other.path(), settings), "model.checkpoint");
}

TEST_F(SharedStatistics, AreWrittenByOneJobAtATime) {
  const Command settings = kept(paper_rule().settings);
  const RunFolder first(model(), settings);
  const std::vector<std::string> steps = RunFolder(model(), kept_elsewhere()).steps();
  const auto third = std::ranges::find_if(steps, [](const std::string& step) {
    return step.starts_with("after rename") && step.ends_with("layer-001/bundle-02-fisher.h5");
  });
  const StepSignal hold{.step = static_cast<int>(third - steps.begin()) + 1, .signal = SIGSTOP};
  Process job(quern_stepper(1, hold, first.quantize()));
  ASSERT_TRUE(wait_until([&] { return is_stopped(job.id()); })) << job.err();
  const RunFolder second(model(), settings);
  const ProcessResult refused = run_process(quern(2, second.quantize()));
  EXPECT_EQ(refused.exit_code, 64);
  EXPECT_THAT(refused.err, HasSubstr("directory " + directory().string() +
                                     " is in use by process " + std::to_string(job.id())));
  job.kill_all();
  job.wait();
  second.finish(2);
  first.finish(1);
  EXPECT_EQ(second.output_hashes(), first.output_hashes());
  EXPECT_EQ(first.report().at("statistics").at("reused"), kInputs);
}

TEST_F(SharedStatistics, AreOnlyKeptWhenAskedFor) {
  const RunFolder run(model(), joint_over_the_model().settings);
  run.finish(1);
  EXPECT_TRUE(bundle_files(run.directory() / "statistics").empty());
  const RunFolder plain(model(), paper_rule().settings);
  plain.finish(1);
  EXPECT_FALSE(fs::exists(plain.directory() / "statistics"));
}

}  // namespace
}  // namespace quern::test
