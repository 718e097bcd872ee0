#include "workers/store/state_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "tests/support/paths.h"
#include "tests/workers/files/child_process.h"
#include "tests/workers/files/small_disk.h"
#include "tests/workers/store/sample_bundle.h"

namespace quern::test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

const std::string kName = "layers/layer-000/bundle-00.h5";

class StateStoreTest : public testing::Test {
 protected:
  std::filesystem::path file(const std::string& name) const { return directory_.path() / name; }

  /// A store with one acknowledged bundle.
  StateStore store_with_bundle() {
    StateStore store(directory_.path());
    store.acknowledge({store.write(kName, sample_bundle())});
    return store;
  }

  TemporaryDirectory directory_;
};

TEST_F(StateStoreTest, KeepsWhatIsAcknowledged) {
  {
    StateStore store(directory_.path());
    const JournalEntry entry = store.write(kName, sample_bundle());
    EXPECT_FALSE(store.contains(kName));
    EXPECT_FALSE(store.intact(kName));
    EXPECT_FALSE(store.read(kName));
    store.acknowledge({entry});
    EXPECT_TRUE(store.contains(kName));
  }
  const StateStore store(directory_.path());
  ASSERT_TRUE(store.intact(kName));
  EXPECT_TRUE(same_bundle(store.read(kName).value(), sample_bundle()));
  EXPECT_EQ(store.ignored_journal_bytes(), 0U);
}

TEST_F(StateStoreTest, ReadsAttributesAloneAndByEntry) {
  StateStore store = store_with_bundle();
  const JournalEntry entry = store.entries().at(kName);
  EXPECT_EQ(store.read_attributes(kName), sample_bundle().attributes);
  EXPECT_FALSE(store.read_attributes("layers/absent.h5"));
  store.forget(kName);
  EXPECT_TRUE(same_bundle(store.read(entry).value(), sample_bundle()));
  std::fstream(file(kName), std::ios::binary | std::ios::in | std::ios::out).put('x');
  EXPECT_FALSE(store.read(entry));
  store.learn({entry});
  EXPECT_FALSE(store.read_attributes(kName));
}

TEST_F(StateStoreTest, OtherRanksLearn) {
  StateStore first(directory_.path());
  StateStore other(directory_.path());
  const JournalEntry entry = other.write(kName, sample_bundle());
  first.acknowledge({entry});
  EXPECT_FALSE(other.contains(kName));
  other.learn({entry});
  EXPECT_TRUE(same_bundle(other.read(kName).value(), sample_bundle()));
  other.forget(kName);
  EXPECT_FALSE(other.read(kName));
  EXPECT_TRUE(first.read(kName));
}

TEST_F(StateStoreTest, EveryFlippedByteIsSeen) {
  const StateStore store = store_with_bundle();
  const std::string whole = contents(file(kName));
  std::fstream stream(file(kName), std::ios::binary | std::ios::in | std::ios::out);
  const auto set_byte = [&](std::size_t at, char value) {
    stream.seekp(static_cast<std::streamoff>(at));
    stream.put(value).flush();
  };
  for (std::size_t at = 0; at < whole.size(); ++at) {
    set_byte(at, static_cast<char>(whole[at] ^ (1 << (at % 8))));
    ASSERT_FALSE(store.intact(kName)) << at;
    set_byte(at, whole[at]);
  }
  EXPECT_TRUE(store.intact(kName));
}

TEST_F(StateStoreTest, OtherLengthsAndAbsenceAreSeen) {
  const StateStore store = store_with_bundle();
  const std::string whole = contents(file(kName));
  for (const std::string& other : {whole + '\0', whole.substr(1), std::string()}) {
    put(file(kName), other);
    EXPECT_FALSE(store.intact(kName));
    EXPECT_FALSE(store.read(kName));
  }
  std::filesystem::remove(file(kName));
  EXPECT_FALSE(store.intact(kName));
}

TEST_F(StateStoreTest, UnreadableIsNotDamaged) {
  const StateStore store = store_with_bundle();
  std::filesystem::permissions(file(kName), std::filesystem::perms{});
  std::filesystem::permissions(directory_.path(), std::filesystem::perms{0755});
  const std::string result = in_child([&]() -> std::string {
    if (!become_nobody()) return "still root";
    return store.intact(kName) ? "intact" : "damaged";
  });
  EXPECT_THAT(result, AllOf(HasSubstr("threw: "), HasSubstr("Permission denied"),
                            HasSubstr(file(kName).string()), HasSubstr("move this file away")));
}

TEST_F(StateStoreTest, SetsAsideUnderFreeNumbers) {
  StateStore store = store_with_bundle();
  put(file(kName), "damage 1");
  EXPECT_EQ(store.set_aside(kName), file(kName + ".damaged-1"));
  EXPECT_FALSE(store.contains(kName));
  EXPECT_FALSE(StateStore(directory_.path()).contains(kName));
  EXPECT_FALSE(std::filesystem::exists(file(kName)));
  for (const char* number : {"2", "3"}) {
    store.acknowledge({store.write(kName, sample_bundle())});
    put(file(kName), std::string("damage ") + number);
    store.set_aside(kName);
    EXPECT_EQ(contents(file(kName + ".damaged-" + number)), std::string("damage ") + number);
  }
  EXPECT_EQ(contents(file(kName + ".damaged-1")), "damage 1");
  store.acknowledge({store.write(kName, sample_bundle())});
  EXPECT_TRUE(StateStore(directory_.path()).intact(kName));
}

TEST_F(StateStoreTest, SetsAsideWhatIsGone) {
  StateStore store = store_with_bundle();
  std::filesystem::remove(file(kName));
  EXPECT_TRUE(store.set_aside(kName).empty());
  EXPECT_FALSE(StateStore(directory_.path()).contains(kName));
  EXPECT_THROW(store.set_aside(kName), InternalError);
}

TEST_F(StateStoreTest, DescribesFilesOfOthers) {
  StateStore store(directory_.path());
  std::filesystem::create_directory(file("output"));
  put(file("output/model.safetensors"), "abc");
  const JournalEntry entry = store.describe("output/model.safetensors");
  const JournalEntry expected{"output/model.safetensors", 3, "06b05ab6733a618578af5f94892f3950"};
  EXPECT_EQ(entry, expected);
  store.acknowledge({entry});
  EXPECT_TRUE(store.intact(entry.name));
  put(file("output/model.safetensors"), "abd");
  EXPECT_FALSE(store.intact(entry.name));
  EXPECT_THROW(store.describe("output/absent"), StoreError);
}

TEST_F(StateStoreTest, NamesStayInside) {
  StateStore store(directory_.path());
  for (const char* name : {"../x.h5", "/x.h5", "a/../../x.h5", "", ".", "a b", "journal"}) {
    EXPECT_THROW(store.write(name, {}), InternalError) << name;
    EXPECT_THROW(store.describe(name), InternalError) << name;
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory_.path()));
}

TEST_F(StateStoreTest, FailuresNameTheCause) {
  EXPECT_THROW(StateStore(file("absent")), StoreError);
  put(file("layers"), "a file where a directory must be");
  const StateStore store(directory_.path());
  try {
    store.write(kName, sample_bundle());
    FAIL() << "nothing thrown";
  } catch (const StoreError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr(file("layers").string()),
                                    HasSubstr("Not a directory"), HasSubstr("move it away")));
  }
  std::filesystem::remove(file("layers"));
  std::filesystem::create_directories(file(kName));
  EXPECT_THROW(store.write(kName, sample_bundle()), StoreError);
}

TEST_F(StateStoreTest, TellsOfADamagedJournal) {
  { store_with_bundle(); }
  std::ofstream(file("journal"), std::ios::app) << "torn";
  const StateStore store(directory_.path());
  EXPECT_EQ(store.ignored_journal_bytes(), 4U);
  EXPECT_TRUE(store.intact(kName));
}

TEST_F(StateStoreTest, TheFileIsDurableBeforeItsLineIsWritten) {
  std::vector<std::string> steps;
  StateStore store(directory_.path(), [&](std::string_view step) {
    if (step.starts_with("before ")) steps.emplace_back(step.substr(7));
  });
  store.acknowledge({store.write("bundle.h5", sample_bundle())});
  const std::string bundle = file("bundle.h5").string();
  const std::string journal = file("journal").string();
  const std::string root = directory_.path().string();
  EXPECT_THAT(
      steps, ElementsAre("open " + bundle + ".tmp", "write " + bundle + ".tmp",
                         "fsync " + bundle + ".tmp", "close " + bundle + ".tmp", "rename " + bundle,
                         "fsync directory " + root, "open " + journal, "write " + journal,
                         "fsync " + journal, "close " + journal, "fsync directory " + root));
}

}  // namespace
}  // namespace quern::test
