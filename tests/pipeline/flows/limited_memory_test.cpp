#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <sstream>

#include "kernels/core/error.h"
#include "pipeline/config/parse.h"
#include "pipeline/device/device_needs.h"
#include "pipeline/runner.h"
#include "tests/support/folder_hashes.h"
#include "tests/support/paths.h"
#include "tests/workers/test_session.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;

using testing::HasSubstr;

/// A run of the small model of this repository: 7 windows of 64 tokens in 4 micro-batches.
class LimitedRun {
 public:
  explicit LimitedRun(const std::vector<std::string>& settings) {
    const fs::path data = source_dir() / "tests/data";
    const std::string text = fmt::format(
        "model: {{path: {}}}\n"
        "calibration: {{source: {}, samples: 7, sequence_length: 64, micro_batch: 2, "
        "max_characters: 20000}}\n"
        "quantize: {{method: gptq}}\n"
        "output: {{path: {}}}\n"
        "evaluate: {{source: {}, sequence_length: 64, samples: 7, micro_batch: 2}}\n"
        "run: {{directory: {}}}\n",
        (data / "llama3m").string(), (data / "calibration.txt").string(), output().string(),
        (data / "evaluation.txt").string(), (folder_.path() / "run").string());
    config_ = parse_run_file(text, "run.yaml", settings).run;
  }

  fs::path output() const { return folder_.path() / "out"; }

  DeviceNeeds needs() const {
    const ModelGraph graph = read_model_graph(config_.model.path, {});
    return device_needs(graph, make_plan(graph, config_), config_, {1, DType::f32});
  }

  /// Its log. limit_bytes: of the device memory.
  std::string run(std::size_t limit_bytes) {
    std::ostringstream log;
    Session session = quiet_session();
    session.log = std::make_shared<spdlog::logger>(
        "test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log));
    session.backend = make_cpu_backend(1, limit_bytes);
    run_quantize(session, config_, {});
    peak_bytes_ = session.backend->memory().peak_bytes();
    return log.str();
  }

  std::size_t peak_bytes() const noexcept { return peak_bytes_; }
  std::map<std::string, std::string> hashes() const { return folder_hashes(output()); }

 private:
  TemporaryDirectory folder_;
  RunFile config_;
  std::size_t peak_bytes_ = 0;
};

using Settings = std::vector<std::string>;

class LimitedMemory : public testing::TestWithParam<Settings> {};

TEST_P(LimitedMemory, ChangesNoByteOfTheOutput) {
  LimitedRun usual(GetParam());
  EXPECT_THAT(usual.run(Memory::unlimited), testing::Not(HasSubstr("device memory")));
  constexpr std::uint64_t kResidualBytes = 2 * 64 * 192 * 4;
  for (const std::uint64_t on_device : {0, 3}) {
    LimitedRun limited(GetParam());
    const DeviceNeeds needs = limited.needs();
    const std::string log = limited.run(needs.least_bytes() + on_device * needs.state_bytes);
    EXPECT_THAT(log, HasSubstr(fmt::format("{} of 4 micro-batches on the device", on_device)));
    EXPECT_EQ(limited.hashes(), usual.hashes()) << on_device;
    EXPECT_LE(limited.peak_bytes() + (3 - on_device) * kResidualBytes, usual.peak_bytes());
  }
}

/// Of the first layer alone, for whose sake the gradient goes back through all four.
Settings tables(const Settings& more) {
  Settings settings = {"quantize.method=squeezellm", "quantize.bits=3",
                       "quantize.rules=[{match: '.*layers.[123].*', skip: true}]",
                       "output.format=squeezellm_safetensors"};
  settings.insert(settings.end(), more.begin(), more.end());
  return settings;
}

INSTANTIATE_TEST_SUITE_P(
    Runs, LimitedMemory,
    testing::Values(Settings{}, Settings{"quantize.true_sequential=false"},
                    Settings{"quantize.propagation=original"},
                    Settings{"quantize.propagation=original", "quantize.true_sequential=false"},
                    Settings{"run.save_activations=1"}, Settings{"quantize.lm_head=true"},
                    tables({}), tables({"quantize.sparsity=0.0045", "run.save_activations=1"})));

/// Between nothing and all of the kept layer inputs on the device.
TEST(LimitedLayerInputs, ChangeNoByteWhereverTheyAre) {
  LimitedRun usual(tables({}));
  usual.run(Memory::unlimited);
  const DeviceNeeds needs = usual.needs();
  for (const std::uint64_t layers : {0, 2, 9}) {
    LimitedRun limited(tables({"run.activation_memory=100KB"}));
    const std::uint64_t inputs = layers * needs.layer_input_bytes;
    const std::string log = limited.run(needs.least_bytes() + 4 * needs.state_bytes + inputs);
    EXPECT_THAT(log, HasSubstr("4 of 4 micro-batches on the device"));
    EXPECT_THAT(log, HasSubstr("of kept layer inputs on the device"));
    EXPECT_EQ(limited.hashes(), usual.hashes()) << layers;
  }
}

TEST(LimitedMemoryOfARun, IsRefusedBeforeAnythingIsDone) {
  LimitedRun run({});
  const DeviceNeeds needs = run.needs();
  try {
    run.run(needs.least_bytes() - 1);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const MemoryError& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::memory);
    EXPECT_THAT(error.what(), HasSubstr("the run needs 0.2"));
    EXPECT_THAT(error.what(), HasSubstr("GB are free on the device"));
  }
  EXPECT_FALSE(fs::exists(run.output()));
}

}  // namespace
}  // namespace quern::test
