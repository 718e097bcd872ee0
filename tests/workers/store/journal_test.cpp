#include "workers/store/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "tests/support/paths.h"
#include "tests/workers/files/child_process.h"
#include "tests/workers/store/sample_bundle.h"
#include "workers/store/store_name.h"

namespace quern::test {
namespace {

using testing::HasSubstr;
using testing::Pair;
using testing::UnorderedElementsAre;

// Hand-made lines; the checksums come from the Python package xxhash.
const std::string kFirst =
    "layers/layer-000/bundle-00.h5 10 0123456789abcdef0123456789abcdef "
    "b7e33bb89e014444d1f59b8751960b4a\n";
const std::string kSecond =
    "layers/layer-000/bundle-01.h5 0 00000000000000000000000000000000 "
    "bc065457d5b341ef597b6a666fb3e7e2\n";
const std::string kThird =
    "output/model.safetensors 18446744073709551615 ffffffffffffffffffffffffffffffff "
    "ed4d5e2fe912c1bdd08394c834338e39\n";
const std::string kRemoveFirst =
    "- layers/layer-000/bundle-00.h5 de698287bae92b9d56cd0cba1c9ca4e1\n";

const JournalEntry kFirstEntry{"layers/layer-000/bundle-00.h5", 10,
                               "0123456789abcdef0123456789abcdef"};
const JournalEntry kSecondEntry{"layers/layer-000/bundle-01.h5", 0,
                                "00000000000000000000000000000000"};
const JournalEntry kThirdEntry{"output/model.safetensors", 18446744073709551615U,
                               "ffffffffffffffffffffffffffffffff"};

class JournalTest : public testing::Test {
 protected:
  JournalContents load(const std::string& text) {
    std::filesystem::remove(path_);  // a truncated file would be flushed to disk
    put(path_, text);
    return Journal(path_).load();
  }

  TemporaryDirectory directory_;
  std::filesystem::path path_ = directory_.path() / "journal";
};

TEST_F(JournalTest, ReadsHandMadeLines) {
  const JournalContents contents = load(kFirst + kSecond + kThird);
  EXPECT_THAT(contents.entries, UnorderedElementsAre(Pair(kFirstEntry.name, kFirstEntry),
                                                     Pair(kSecondEntry.name, kSecondEntry),
                                                     Pair(kThirdEntry.name, kThirdEntry)));
  EXPECT_EQ(contents.ignored_bytes, 0U);
  EXPECT_THAT(load(kFirst + kSecond + kRemoveFirst).entries,
              UnorderedElementsAre(Pair(kSecondEntry.name, kSecondEntry)));
  EXPECT_EQ(load(kRemoveFirst + kFirst).entries.size(), 1U);
}

TEST_F(JournalTest, WritesTheSameLines) {
  Journal journal(path_);
  EXPECT_TRUE(journal.load().entries.empty());  // absent
  journal.append({});
  EXPECT_FALSE(std::filesystem::exists(path_));
  journal.append({kFirstEntry, kSecondEntry});
  journal.append({kThirdEntry});
  journal.append_removal(kFirstEntry.name);
  EXPECT_EQ(contents(path_), kFirst + kSecond + kThird + kRemoveFirst);
}

TEST_F(JournalTest, ABatchIsOneWrite) {
  std::vector<std::string> steps;
  Journal journal(path_, [&](std::string_view step) { steps.emplace_back(step.substr(0, 12)); });
  journal.append({kFirstEntry, kSecondEntry, kThirdEntry});
  EXPECT_EQ(std::ranges::count(steps, "before write"), 1);
}

TEST_F(JournalTest, TornAnywhereKeepsTheWholeLines) {
  const std::string whole = kFirst + kSecond + kThird;
  for (std::size_t length = 0; length <= whole.size(); ++length) {
    const JournalContents found = load(whole.substr(0, length));
    const std::size_t lines = (length >= kFirst.size()) +
                              (length >= kFirst.size() + kSecond.size()) + (length == whole.size());
    ASSERT_EQ(found.entries.size(), lines) << length;
    ASSERT_EQ(found.valid_bytes + found.ignored_bytes, length);
    if (length % 7 != 0) continue;  // appending waits for the disk
    Journal(path_).append({kThirdEntry});
    const std::string kept = whole.substr(0, found.valid_bytes);
    ASSERT_EQ(contents(path_), kept + kThird) << "cut before the append at " << length;
  }
}

TEST_F(JournalTest, AFlippedBitEndsTheList) {
  const std::string whole = kFirst + kSecond + kThird;
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      const std::size_t before = (at >= kFirst.size()) + (at >= kFirst.size() + kSecond.size());
      ASSERT_EQ(load(damaged).entries.size(), before) << "byte " << at << " bit " << bit;
    }
  }
}

TEST_F(JournalTest, LinesThatAreWrongThoughTheChecksumHolds) {
  for (const char* line :
       {"../escape 1 0123456789abcdef0123456789abcdef d86a4019dcfa0aa21e42105fd4078304\n",
        "a.h5 ten 0123456789abcdef0123456789abcdef eecec805d2eb35025b3869936f5db79e\n",
        "a.h5 18446744073709551616 0123456789abcdef0123456789abcdef "
        "24f2b9a777c9ef6c39c651bdf20f28fe\n",
        "a.h5 1 2 0123456789abcdef0123456789abcdef f8da03058f0c292054b5073631b2d3e6\n",
        "a.h5 1 0123456789ABCDEF0123456789abcdef e15f5ce921af8896919e748872dd10ec\n",
        "a.h5 -1 0123456789abcdef0123456789abcdef 0ef2493042d6e0c5522fa463a1443cf4\n"}) {
    EXPECT_EQ(load(kFirst + line + kThird).entries.size(), 1U) << line;
  }
  for (const std::string& junk : {std::string("\n"), std::string(" \n"), std::string(5000, '\0'),
                                  std::string("\xff\xfe\n\n\n")}) {
    EXPECT_TRUE(load(junk).entries.empty());
  }
}

TEST_F(JournalTest, RefusesNamesThatCannotStandInALine) {
  Journal journal(path_);
  for (const char* name : {"", "-", "a b", "a\nb", "/etc/x", "../x", "a/../../x", "a/", "a//b"}) {
    EXPECT_FALSE(is_store_name(name)) << name;
    EXPECT_THROW(journal.append({{name, 1, kFirstEntry.hash}}), InternalError) << name;
    EXPECT_THROW(journal.append_removal(name), InternalError) << name;
  }
  EXPECT_THROW(journal.append({{"x", 1, "not a hash"}}), InternalError);
  EXPECT_FALSE(std::filesystem::exists(path_));
  for (const char* name : {"x", "-x", "a/-", "..x", "a.../b", "\xc3\xa9"}) {
    EXPECT_TRUE(is_store_name(name)) << name;
  }
}

TEST_F(JournalTest, FullWhileAppendingLosesNothing) {
  Journal(path_).append({kFirstEntry});
  const std::string result = in_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{kFirst.size() + kSecond.size() + 20, RLIM_INFINITY};
    setrlimit(RLIMIT_FSIZE, &limit);
    Journal(path_).append({kSecondEntry, kThirdEntry});
    return std::string("no error");
  });
  EXPECT_THAT(result, HasSubstr("File too large"));
  EXPECT_EQ(Journal(path_).load().entries.size(), 2U);  // the torn batch keeps its whole line
  Journal(path_).append({kThirdEntry});
  EXPECT_EQ(contents(path_), kFirst + kSecond + kThird);
}

TEST_F(JournalTest, UnreadableIsAStoreError) {
  std::filesystem::create_directory(path_);
  EXPECT_THROW(Journal(path_).load(), StoreError);
  EXPECT_THROW(Journal(path_).append({kFirstEntry}), StoreError);
  put(directory_.path() / "file", "x");
  EXPECT_THROW(Journal(directory_.path() / "file" / "journal").append({kFirstEntry}), StoreError);
}

}  // namespace
}  // namespace quern::test
