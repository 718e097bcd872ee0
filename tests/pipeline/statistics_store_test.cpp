#include "pipeline/statistics_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "kernels/core/error.h"
#include "pipeline/identity.h"
#include "tests/support/mpi_test_main.h"
#include "tests/workers/shared_directory.h"
#include "tests/workers/test_session.h"
#include "workers/agreement.h"

namespace quern::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

namespace fs = std::filesystem;

constexpr StatisticsNeeded kAll{.gram = true, .fisher = true, .guided = true};

BundleUnit bundle_of(const std::string& name, const std::string& module) {
  BundleUnit bundle;
  bundle.name = name;
  bundle.input = {
      "mlp", 2, 3, {{Role::gate, module + ".gate", 2, 3}, {Role::up, module + ".up", 4, 3}}};
  for (const LinearModule& one : bundle.input.modules) bundle.modules.push_back({one, {}});
  return bundle;
}

const BundleUnit kFirst = bundle_of("layers/layer-000/bundle-02.h5", "model.layers.0");
const BundleUnit kSecond = bundle_of("layers/layer-001/bundle-02.h5", "model.layers.1");

Gram gram_of(Memory& memory, std::int64_t start) {
  HostTensor sums(DType::i64, {3, 3});
  HostTensor exponents(DType::i32, {3});
  for (std::size_t i = 0; i < 9; ++i) {
    sums.as<std::int64_t>()[i] = (start + static_cast<std::int64_t>(i)) << 40;
  }
  for (std::size_t i = 0; i < 3; ++i) exponents.as<std::int32_t>()[i] = static_cast<int>(i) - 20;
  Gram gram = make_gram(memory, 3);
  gram.sums = memory.to_device(sums);
  gram.exponents = memory.to_device(exponents);
  return gram;
}

/// Other numbers for another `start`.
BundleStatistics statistics_of(Session& session, const BundleUnit& bundle, std::int64_t start) {
  Memory& memory = session.backend->memory();
  BundleStatistics statistics;
  statistics.gram = gram_of(memory, start);
  for (const LinearModule& module : bundle.input.modules) {
    HostTensor fisher(DType::f32, {module.out_features, module.in_features});
    for (float& value : fisher.as<float>()) value = 0.1F + static_cast<float>(start++);
    statistics.modules[module.name].fisher = memory.to_device(fisher);
    statistics.modules[module.name].guided = gram_of(memory, start);
  }
  return statistics;
}

void expect_same(Session& session, const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.dtype(), b.dtype());
  EXPECT_EQ(a.shape(), b.shape());
  Memory& memory = session.backend->memory();
  EXPECT_EQ(memory.to_host(a.view()).bytes, memory.to_host(b.view()).bytes);
}

void expect_same(Session& session, const Gram& a, const Gram& b) {
  expect_same(session, a.sums, b.sums);
  expect_same(session, a.exponents, b.exponents);
  EXPECT_EQ(session.backend->memory().to_host(a.overflow.view()).as<std::int64_t>()[0], 0);
}

void expect_same(Session& session, const BundleStatistics& a, const BundleStatistics& b) {
  ASSERT_TRUE(a.gram && b.gram);
  expect_same(session, *a.gram, *b.gram);
  ASSERT_EQ(a.modules.size(), b.modules.size());
  for (const auto& [name, module] : a.modules) {
    const ModuleStatistics& other = b.modules.at(name);
    ASSERT_TRUE(module.fisher && other.fisher && module.guided && other.guided) << name;
    expect_same(session, *module.fisher, *other.fisher);
    expect_same(session, *module.guided, *other.guided);
  }
}

nlohmann::json identity(int seed = 0, const char* backend = "cpu a") {
  return {{"config", {{"calibration", {{"samples", 8}, {"seed", seed}}}}},
          {"model", {{"checkpoint", "00ff"}}},
          {"calibration_tokens", "0123"},
          {"numerics", {{"backend", backend}}}};
}

class StatisticsStoreTest : public testing::Test {
 protected:
  /// The directory goes when no rank reads it any more.
  void TearDown() override { session_.communicator->barrier(); }

  StatisticsStore open(const nlohmann::json& with = identity(), bool ignore_numerics = false) {
    const fs::path place = directory_.path() / "kept/statistics";
    run_agreed(session_, [&] {
      if (session_.is_root()) prepare_statistics(session_, place, with, ignore_numerics);
    });
    return {session_, place};
  }

  /// Collective: the last rank writes the bundle's statistics, all learn of them.
  void put(StatisticsStore& store, const BundleUnit& bundle, BundleStatistics statistics) {
    std::vector<JournalEntry> written;
    run_agreed(session_, [&] {
      if (session_.rank() == session_.ranks() - 1) written = store.write(bundle, statistics);
    });
    store.acknowledge(written);
  }

  /// Collective: rank 0 turns a bit in the middle of a file.
  void damage(const std::string& name) {
    run_agreed(session_, [&] {
      if (!session_.is_root()) return;
      const fs::path path = directory_.path() / "kept/statistics" / name;
      std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
      const auto middle = static_cast<std::streamoff>(fs::file_size(path) / 2);
      file.seekg(middle);
      const auto byte = static_cast<char>(file.get() ^ 0x10);
      file.seekp(middle);
      file.put(byte);
    });
  }

  std::string refusal(const nlohmann::json& with, bool ignore_numerics = false) {
    try {
      open(with, ignore_numerics);
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_code(), ExitCode::usage);
      return error.what();
    }
    return "nothing was thrown";
  }

  Session session_ = quiet_session(&mpi_environment());
  SharedDirectory directory_{session_};
};

TEST_F(StatisticsStoreTest, EveryRankReadsWhatOneHasWritten) {
  StatisticsStore store = open();
  EXPECT_FALSE(store.contains(kFirst, kAll));
  EXPECT_TRUE(store.contains(kFirst, {})) << "nothing is asked for";
  put(store, kFirst, statistics_of(session_, kFirst, 1));
  put(store, kSecond, statistics_of(session_, kSecond, 1000));
  EXPECT_TRUE(store.contains(kFirst, kAll));
  expect_same(session_, store.read(kFirst, kAll), statistics_of(session_, kFirst, 1));
  expect_same(session_, store.read(kSecond, kAll), statistics_of(session_, kSecond, 1000));
  StatisticsStore again = open();
  EXPECT_TRUE(again.contains(kSecond, kAll));
  expect_same(session_, again.read(kSecond, kAll), statistics_of(session_, kSecond, 1000));
}

TEST_F(StatisticsStoreTest, OneKindComesAfterTheOtherAndIsReadAlone) {
  StatisticsStore store = open();
  BundleStatistics fisher = statistics_of(session_, kFirst, 1);
  fisher.gram.reset();
  for (auto& [name, module] : fisher.modules) module.guided.reset();
  put(store, kFirst, std::move(fisher));
  EXPECT_TRUE(store.contains(kFirst, {.fisher = true}));
  EXPECT_FALSE(store.contains(kFirst, {.guided = true}));
  EXPECT_FALSE(store.contains(kFirst, {.gram = true, .fisher = true}));
  put(store, kFirst, statistics_of(session_, kFirst, 500));  // F is there already
  EXPECT_TRUE(store.contains(kFirst, kAll));
  const BundleStatistics found = store.read(kFirst, {.fisher = true});
  EXPECT_FALSE(found.gram);
  for (const auto& [name, module] : found.modules) {
    EXPECT_FALSE(module.guided);
    expect_same(session_, *module.fisher,
                *statistics_of(session_, kFirst, 1).modules.at(name).fisher);
  }
  expect_same(session_, *store.read(kFirst, {.gram = true}).gram,
              *statistics_of(session_, kFirst, 500).gram);
}

TEST_F(StatisticsStoreTest, ADamagedFileIsForgottenAndTheOthersStay) {
  StatisticsStore store = open();
  put(store, kFirst, statistics_of(session_, kFirst, 1));
  put(store, kSecond, statistics_of(session_, kSecond, 1000));
  damage("layers/layer-000/bundle-02-fisher.h5");
  EXPECT_THROW(store.read(kFirst, {.fisher = true}), StoreError);
  store.check({&kFirst, &kSecond});
  EXPECT_FALSE(store.contains(kFirst, {.fisher = true}));
  EXPECT_TRUE(store.contains(kFirst, {.gram = true, .guided = true}));
  EXPECT_TRUE(store.contains(kSecond, kAll));
  EXPECT_THROW(store.read(kFirst, {.fisher = true}), StoreError);
  session_.communicator->barrier();
  put(store, kFirst, statistics_of(session_, kFirst, 7));
  expect_same(session_,
              *store.read(kFirst, {.fisher = true}).modules.at("model.layers.0.up").fisher,
              *statistics_of(session_, kFirst, 7).modules.at("model.layers.0.up").fisher);
}

TEST_F(StatisticsStoreTest, DiscardedStatisticsAreGone) {
  StatisticsStore store = open();
  put(store, kFirst, statistics_of(session_, kFirst, 1));
  put(store, kSecond, statistics_of(session_, kSecond, 1000));
  store.discard({&kFirst});
  EXPECT_FALSE(store.contains(kFirst, {.gram = true}));
  EXPECT_FALSE(store.contains(kFirst, {.fisher = true}));
  EXPECT_FALSE(store.contains(kFirst, {.guided = true}));
  EXPECT_TRUE(store.contains(kSecond, kAll));
  session_.communicator->barrier();
  EXPECT_TRUE(fs::is_empty(directory_.path() / "kept/statistics/layers/layer-000"));
  EXPECT_FALSE(open().contains(kFirst, {.fisher = true}));
}

TEST_F(StatisticsStoreTest, AnotherIdentityIsRefusedAndNamed) {
  open();
  EXPECT_THAT(refusal(identity(7)),
              AllOf(HasSubstr("run.statistics_directory"), HasSubstr("statistics"),
                    HasSubstr("config.calibration.seed: 0 in the statistics directory, 7 now"),
                    Not(HasSubstr("samples")), Not(HasSubstr("ignore_numerics"))));
  EXPECT_THAT(refusal(identity(0, "cpu b")),
              AllOf(HasSubstr("numerics.backend"), HasSubstr("run.ignore_numerics")));
  EXPECT_EQ(refusal(identity(0, "cpu b"), true), "nothing was thrown");
  EXPECT_EQ(refusal(identity()), "nothing was thrown");
}

/// Whatever concerns only the method leaves the identity of the statistics alone.
TEST(StatisticsIdentity, IsThatOfModelAndText) {
  nlohmann::json run = identity();
  run["config"]["quantize"] = {{"bits", 3}};
  nlohmann::json other = run;
  other["config"]["quantize"]["bits"] = 4;
  EXPECT_EQ(statistics_identity(run), statistics_identity(other));
  EXPECT_EQ(statistics_identity(run), identity());
  EXPECT_NE(statistics_identity(identity(1)), identity());
  other["calibration_tokens"] = "4567";
  EXPECT_NE(statistics_identity(run), statistics_identity(other));
  run["config"].erase("calibration");
  EXPECT_TRUE(statistics_identity(run).at("config").empty());
}

}  // namespace
}  // namespace quern::test
