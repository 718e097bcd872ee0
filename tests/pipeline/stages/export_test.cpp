#include "pipeline/stages/export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/core/error.h"
#include "pipeline/flows/quantize_run.h"
#include "tests/support/folder_hashes.h"
#include "tests/support/mpi_test_main.h"
#include "tests/workers/shared_directory.h"
#include "tests/workers/test_session.h"
#include "workers/agreement.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

using Hashes = std::map<std::string, std::string>;

RunFile config_in(const fs::path& folder, OutputFormat format) {
  RunFile config;
  config.model.path = source_dir() / "tests/data/llama3m";
  config.quantize.method = Method::rtn;
  config.quantize.grid = {.bits = 4, .group_size = 64};
  config.output = {folder / "out", format, 1'600'000};
  config.run.directory = folder;
  return config;
}

/// The small model, rounded and committed, and exports of it.
class RoundedModel {
 public:
  explicit RoundedModel(OutputFormat format)
      : config_(config_in(directory_.path(), format)),
        model_(open_model(config_.model.path, {})),
        plan_(make_plan(model_.graph, config_)),
        store_(directory_.path()),
        context_{session_, config_, model_, plan_, store_, watch_, {}} {
    context_.committed = [&](std::span<const JournalEntry> bundles) {
      committed_.insert(committed_.end(), bundles.begin(), bundles.end());
    };
    Progress progress(session_.log, {.enabled = false});
    quantize_all(context_, nullptr, {}, progress);
  }

  ~RoundedModel() { meet(); }
  RoundedModel(const RoundedModel&) = delete;             // its parts refer to each other
  RoundedModel& operator=(const RoundedModel&) = delete;  // likewise

  /// Collective: no rank goes on before all have come.
  void meet() { any_rank(session_, false); }
  const RunFile& config() const { return config_; }
  const Plan& plan() const { return plan_; }
  fs::path partial() const { return config_.output.path.string() + ".partial"; }
  /// What was told of as committed.
  std::vector<JournalEntry> committed() const { return committed_; }

  ModelExport begin() { return ModelExport(context_, provenance_); }

  std::vector<QuantizedModule> modules() const {
    std::vector<QuantizedModule> all;
    for (const BundleUnit* bundle : plan_.stored_bundles()) {
      for (QuantizedModule& module : from_bundle(store_.read(bundle->name).value())) {
        all.push_back(std::move(module));
      }
    }
    return all;
  }

  /// The hashes of what an export leaves that takes the bundles one by one in this order.
  Hashes exported(std::span<const JournalEntry> bundles) {
    ModelExport ahead = begin();
    for (const JournalEntry& bundle : bundles) {
      run_agreed(session_, [&] { ahead.take(std::span(&bundle, 1)); });
    }
    const std::vector<QuantizedModule> all = modules();
    const std::vector<ModuleSummary> summaries(all.begin(), all.end());
    const ExportResult result = ahead.finish(summaries);
    const Hashes hashes = folder_hashes(config_.output.path);
    for (const auto& [name, hash] : result.hashes) EXPECT_EQ(hashes.at(name), hash) << name;
    return hashes;
  }

  /// Collective: makes way for another export.
  void remove_output() {
    meet();
    if (session_.is_root()) fs::remove_all(config_.output.path);
    meet();
  }

 private:
  Session session_ = quiet_session(&mpi_environment());
  SharedDirectory directory_{session_};
  RunFile config_;
  OpenModel model_;
  Plan plan_;
  StateStore store_;
  Stopwatch watch_;
  nlohmann::json provenance_ = {{"by", "a test"}};
  std::vector<JournalEntry> committed_;
  RunContext context_;
};

TEST(ModelExport, WritesTheSameBytesInWhateverOrderBundlesCome) {
  for (const OutputFormat format : {OutputFormat::gptq, OutputFormat::dequantized}) {
    RoundedModel model(format);
    std::vector<JournalEntry> bundles = model.committed();
    ASSERT_EQ(bundles.size(), model.plan().stored_bundles().size());
    const Hashes forward = model.exported(bundles);
    ASSERT_TRUE(forward.contains("SHA256SUMS"));
    model.remove_output();
    std::ranges::reverse(bundles);
    EXPECT_EQ(model.exported(bundles), forward);
    EXPECT_FALSE(fs::exists(model.partial()));
  }
}

TEST(ModelExport, HoldsTheModulesOfTheStore) {
  RoundedModel model(OutputFormat::gptq);
  model.exported(model.committed());
  const TensorSource output(model.config().output.path);
  for (const QuantizedModule& module : model.modules()) {
    const auto& grid = std::get<UniformGrid>(module.values);
    EXPECT_EQ(output.read(module.name + ".qweight").bytes, module.words.bytes) << module.name;
    EXPECT_EQ(output.read(module.name + ".scales").bytes, grid.scales.bytes) << module.name;
    EXPECT_EQ(output.read(module.name + ".g_idx").bytes, grid.group_of.bytes) << module.name;
  }
  const TensorSource source(model.config().model.path);
  for (const char* name : {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"}) {
    EXPECT_EQ(output.read(name).bytes, source.read(name).bytes) << name;
  }
}

TEST(ModelExport, LeavesNothingWhenItIsNotFinished) {
  RoundedModel model(OutputFormat::gptq);
  {
    ModelExport ahead = model.begin();
    ahead.take(model.committed());
    EXPECT_TRUE(fs::exists(model.partial()));
    model.meet();
  }
  model.meet();
  EXPECT_FALSE(fs::exists(model.partial()));
  EXPECT_FALSE(fs::exists(model.config().output.path));
}

TEST(ModelExport, FailsOnAllRanksWhereABundleIsDamaged) {
  RoundedModel model(OutputFormat::gptq);
  std::vector<JournalEntry> bundles = model.committed();
  bundles.front().hash.front() = bundles.front().hash.front() == '0' ? '1' : '0';
  std::string message;
  try {
    model.exported(bundles);
  } catch (const Error& error) {
    message = error.what();
    EXPECT_EQ(error.exit_code(), ExitCode::file_system);
  }
  EXPECT_THAT(message, HasSubstr(bundles.front().name + ": the bundle is damaged"));
  model.meet();
  EXPECT_FALSE(fs::exists(model.partial()));
  EXPECT_FALSE(fs::exists(model.config().output.path));
}

}  // namespace
}  // namespace quern::test
