#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/run_folder.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class Resumed : public testing::Test {
 protected:
  static const fs::path& model() {
    static const TwoLayerModel kModel;
    return kModel.path();
  }

  static ProcessResult quantize(const RunFolder& run, int ranks, const Command& settings = {}) {
    return run_process(quern(ranks, run.quantize(settings)));
  }
};

TEST_F(Resumed, OnlyAsAsked) {
  const RunFolder run(model());
  const ProcessResult none = quantize(run, 1, {"run.resume=required"});
  EXPECT_EQ(none.exit_code, 64);
  EXPECT_THAT(none.err, HasSubstr("holds no earlier run"));
  run.finish(1, {"run.resume=never"});
  const ProcessResult again = quantize(run, 2, {"run.resume=never"});
  EXPECT_EQ(again.exit_code, 64);
  EXPECT_THAT(again.err, HasSubstr("holds an earlier run"));
  run.finish(1, {"run.resume=required"});
}

TEST_F(Resumed, NotWithOtherSettings) {
  const RunFolder run(model());
  run.finish(1);
  const std::string journal = contents_of(run.directory() / "journal");
  fs::remove_all(run.output());
  const ProcessResult other =
      quantize(run, 2, {"quantize.bits=3", "calibration.seed=5", "run.threads=2"});
  EXPECT_EQ(other.exit_code, 64);
  EXPECT_THAT(other.err, AllOf(HasSubstr("quantize.bits: 4 in the run directory, 3 now"),
                               HasSubstr("calibration.seed: 0 in the run directory, 5 now"),
                               Not(HasSubstr("threads"))));
  EXPECT_EQ(contents_of(run.directory() / "journal"), journal);
  EXPECT_FALSE(fs::exists(run.output()));
}

TEST_F(Resumed, NotWithAnotherModelOrText) {
  const RunFolder run(model());
  run.finish(1);
  fs::remove_all(run.output());
  const fs::path text = run.path() / "other.txt";
  replace_contents(text, contents_of(source_dir() / "tests/data/evaluation.txt"));
  const ProcessResult other_text = quantize(run, 1, {"calibration.source=" + text.string()});
  EXPECT_EQ(other_text.exit_code, 64);
  EXPECT_THAT(other_text.err, HasSubstr("calibration_tokens"));
  const TwoLayerModel changed;
  std::string bytes = contents_of(changed.path() / "model.safetensors");
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  replace_contents(changed.path() / "model.safetensors", bytes);
  const ProcessResult other_model = quantize(run, 1, {"model.path=" + changed.path().string()});
  EXPECT_EQ(other_model.exit_code, 64);
  EXPECT_THAT(other_model.err, HasSubstr("model.checkpoint"));
}

TEST_F(Resumed, WithOtherThreadsLogLevelAndPlaces) {
  const RunFolder run(model());
  const StepSignal kill{.step = 150};
  const ProcessResult killed = run_process(quern_stepper(1, kill, run.quantize()));
  ASSERT_EQ(killed.signal, SIGKILL);
  ASSERT_FALSE(fs::exists(run.output()));
  const fs::path moved = run.path() / "moved";
  fs::copy(model(), moved, fs::copy_options::recursive);
  run.finish(2, {"run.threads=2", "run.log_level=warning", "model.path=" + moved.string()});
  EXPECT_EQ(run.output_hashes(), undisturbed_output(model(), 1));
}

TEST_F(Resumed, IntoAnotherFormatWithoutComputing) {
  const RunFolder run(model());
  run.finish(1);
  const std::string journal = contents_of(run.directory() / "journal");
  const auto first_write = fs::last_write_time(bundle_files(run.directory()).front());
  const fs::path plain = run.path() / "plain";
  const Command settings = {"output.format=dequantized", "output.path=" + plain.string()};
  EXPECT_THAT(run.finish(3, settings).err,
              HasSubstr("all 8 bundles are committed by an earlier run"));
  EXPECT_EQ(contents_of(run.directory() / "journal"), journal);
  EXPECT_EQ(fs::last_write_time(bundle_files(run.directory()).front()), first_write);
  EXPECT_EQ(folder_hashes(plain), undisturbed_output(model(), 1, {"output.format=dequantized"}));
}

TEST_F(Resumed, WhenNothingIsLeftToDo) {
  const RunFolder run(model());
  run.finish(1);
  const auto hashes = run.output_hashes();
  const auto written = fs::last_write_time(run.output() / "SHA256SUMS");
  run.finish(2);
  EXPECT_EQ(run.output_hashes(), hashes);
  EXPECT_EQ(fs::last_write_time(run.output() / "SHA256SUMS"), written);
}

/// It is told apart from a damaged checkpoint, which would have to be fetched again.
TEST_F(Resumed, OntoItsOwnTruncatedOutput) {
  const RunFolder run(model());
  run.finish(1);
  const auto hashes = run.output_hashes();
  const fs::path shard = run.output() / "model-00001-of-00003.safetensors";
  ASSERT_TRUE(fs::exists(shard));
  for (const int ranks : {1, 2}) {
    fs::resize_file(shard, ranks == 1 ? fs::file_size(shard) / 2 : 100);  // in the data, the header
    const ProcessResult refused = quantize(run, ranks);
    EXPECT_EQ(refused.exit_code, 74);
    EXPECT_THAT(
        refused.err,
        AllOf(HasSubstr(run.output().string() + ": this run's output does not verify"),
              HasSubstr("file '" + shard.filename().string() + "' does not match SHA256SUMS"),
              HasSubstr("delete the folder and run the same command again"),
              Not(HasSubstr("download"))));
  }
  fs::remove_all(run.output());
  run.finish(1);
  EXPECT_EQ(run.output_hashes(), hashes);
}

}  // namespace
}  // namespace quern::test
