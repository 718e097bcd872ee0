#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <functional>
#include <string>

#include "tests/support/paths.h"
#include "tests/workers/files/child_process.h"
#include "tests/workers/store/sample_bundle.h"
#include "workers/store/state_store.h"

namespace quern::test {
namespace {

const std::string kOld = "layers/layer-000/bundle-00.h5";
const std::string kNew = "layers/layer-001/bundle-00.h5";

/// Steps that `work` takes in a fresh run directory prepared by `prepare`.
using Work = std::function<void(StateStore&)>;

int count_steps(const Work& prepare, const Work& work) {
  const TemporaryDirectory directory;
  StateStore plain(directory.path());
  prepare(plain);
  int steps = 0;
  StateStore store(directory.path(), [&](std::string_view) { ++steps; });
  work(store);
  return steps;
}

/// Kills a child at step `fatal` of `work`, then lets `check` look at what a new process finds.
void kill_at(int fatal, const Work& prepare, const Work& work, const Work& check) {
  const TemporaryDirectory directory;
  StateStore plain(directory.path());
  prepare(plain);
  const std::string end = in_child([&] {
    int step = 0;
    StateStore store(directory.path(), [&](std::string_view) {
      if (step++ == fatal) kill(getpid(), SIGKILL);
    });
    work(store);
    return std::string("survived");
  });
  ASSERT_EQ(end, "signal 9") << "step " << fatal;
  StateStore reopened(directory.path());
  check(reopened);
}

void kill_at_every_step(const Work& prepare, const Work& work, const Work& check) {
  const int steps = count_steps(prepare, work);
  ASSERT_GT(steps, 10);
  for (int fatal = 0; fatal < steps; ++fatal) {
    SCOPED_TRACE("killed at step " + std::to_string(fatal));
    kill_at(fatal, prepare, work, check);
  }
}

void commit(StateStore& store, const std::string& name) {
  store.acknowledge({store.write(name, sample_bundle())});
}

void expect_whole(const StateStore& store, const std::string& name) {
  const std::optional<Bundle> bundle = store.read(name);
  ASSERT_TRUE(bundle) << name;
  EXPECT_TRUE(same_bundle(*bundle, sample_bundle())) << name;
}

/// Every file but temporaries and the journal is whole under its name, acknowledged or not.
void expect_final_names_whole(const StateStore& store) {
  for (const auto& file : std::filesystem::recursive_directory_iterator(store.directory())) {
    if (file.path().extension() != ".h5") continue;
    EXPECT_TRUE(same_bundle(read_bundle_file(file.path()), sample_bundle())) << file.path();
  }
}

TEST(StoreKill, FirstCommitOfARun) {
  kill_at_every_step([](StateStore&) {}, [](StateStore& store) { commit(store, kNew); },
                     [](StateStore& store) {
                       if (store.contains(kNew)) expect_whole(store, kNew);
                       expect_final_names_whole(store);
                       commit(store, kNew);
                       expect_whole(store, kNew);
                       expect_whole(StateStore(store.directory()), kNew);
                       expect_final_names_whole(store);
                     });
}

TEST(StoreKill, CommitBehindATornLine) {
  const Work prepare = [](StateStore& store) {
    commit(store, kOld);
    std::ofstream(store.directory() / "journal", std::ios::app) << "torn line of a kill";
  };
  kill_at_every_step(
      prepare, [](StateStore& store) { commit(store, kNew); },
      [](StateStore& store) {
        expect_whole(store, kOld);
        if (store.contains(kNew)) expect_whole(store, kNew);
        commit(store, kNew);
        const StateStore again(store.directory());
        expect_whole(again, kOld);
        expect_whole(again, kNew);
        EXPECT_EQ(again.ignored_journal_bytes(), 0U);
      });
}

TEST(StoreKill, SetAsideAndRedo) {
  const Work prepare = [](StateStore& store) {
    commit(store, kOld);
    commit(store, kNew);
    put(store.directory() / kNew, "damaged");
  };
  const Work repair = [](StateStore& store) {
    if (store.contains(kNew) && !store.intact(kNew)) store.set_aside(kNew);
    if (!store.contains(kNew)) commit(store, kNew);
  };
  kill_at_every_step(prepare, repair, [&](StateStore& store) {
    expect_whole(store, kOld);
    repair(store);
    const StateStore again(store.directory());
    expect_whole(again, kOld);
    expect_whole(again, kNew);
    EXPECT_EQ(contents(store.directory() / (kNew + ".damaged-1")), "damaged");
    EXPECT_FALSE(std::filesystem::exists(store.directory() / (kNew + ".damaged-2")));
  });
}

}  // namespace
}  // namespace quern::test
