#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/e2e/run_folder.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

/// A finished run whose output is taken away, so that the next one needs every bundle again.
class DamagedRun : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    run_ = std::make_unique<RunFolder>(model().path());
    run_->finish(1);
    reference_ = run_->output_hashes();
    journal_ = contents_of(run_->directory() / "journal");
    ASSERT_EQ(bundle_files(run_->directory()).size(), 8U);
    ASSERT_TRUE(reference_.contains("SHA256SUMS"));
  }
  static void TearDownTestSuite() { run_.reset(); }

  static fs::path journal_path() { return run_->directory() / "journal"; }

  /// Removes the output, resumes, and returns what was logged.
  static std::string resumed(int ranks) {
    fs::remove_all(run_->output());
    const std::string log = run_->finish(ranks).err;
    EXPECT_EQ(run_->output_hashes(), reference_);
    return log;
  }

  static void expect_set_aside(const fs::path& bundle, const std::string& log) {
    const std::string name = bundle.lexically_relative(run_->directory()).string();
    EXPECT_THAT(log, HasSubstr(name + " is damaged"));
    EXPECT_THAT(log, HasSubstr("set aside"));
    EXPECT_TRUE(fs::exists(bundle));
  }

  static std::unique_ptr<RunFolder> run_;
  static std::map<std::string, std::string> reference_;
  static std::string journal_;

 private:
  static const TwoLayerModel& model() {
    static const TwoLayerModel kModel;
    return kModel;
  }
};

std::unique_ptr<RunFolder> DamagedRun::run_;
std::map<std::string, std::string> DamagedRun::reference_;
std::string DamagedRun::journal_;

TEST_F(DamagedRun, FlippedByteInEachBundle) {
  const std::vector<fs::path> bundles = bundle_files(run_->directory());
  for (std::size_t i = 0; i < bundles.size(); ++i) {
    std::string bytes = contents_of(bundles[i]);
    const std::size_t place = i * (bytes.size() - 1) / (bundles.size() - 1);
    SCOPED_TRACE(testing::Message() << bundles[i] << ", byte " << place);
    const std::string whole = bytes;
    bytes[place] = static_cast<char>(bytes[place] ^ 0x10);
    replace_contents(bundles[i], bytes);
    expect_set_aside(bundles[i], resumed(i % 3 == 1 ? 2 : 1));
    EXPECT_EQ(contents_of(bundles[i].string() + ".damaged-1"), bytes);
    EXPECT_EQ(contents_of(bundles[i]), whole);
  }
}

TEST_F(DamagedRun, SeveralBundlesAtOnce) {
  const std::vector<fs::path> bundles = bundle_files(run_->directory());
  replace_contents(bundles[1], contents_of(bundles[1]).substr(0, 1000));  // truncated
  fs::remove(bundles[4]);
  replace_contents(bundles[6], "");
  const std::string log = resumed(3);
  for (const std::size_t i : {1U, 4U, 6U}) expect_set_aside(bundles[i], log);
}

TEST_F(DamagedRun, JournalCutAnywhere) {
  const std::size_t line = journal_.find('\n') + 1;
  const std::size_t size = journal_.size();
  for (const std::size_t kept :
       {std::size_t{0}, std::size_t{1}, line - 1, line, line + 7, size / 2, size - 40, size - 1}) {
    SCOPED_TRACE(testing::Message() << kept << " of " << size << " bytes kept");
    replace_contents(journal_path(), journal_.substr(0, kept));
    const std::string log = resumed(kept % 2 == 0 ? 1 : 2);
    EXPECT_EQ(log.find("is damaged"), std::string::npos) << log;
    // The same lines again, whatever their order.
    EXPECT_EQ(contents_of(journal_path()).size(), size);
  }
}

TEST_F(DamagedRun, JunkBehindTheJournal) {
  for (const std::string& junk : {std::string("junk"), std::string("\n"), std::string(3000, '\0'),
                                  journal_.substr(0, 30) + "\n" + journal_}) {
    std::ofstream(journal_path(), std::ios::app) << junk;
    EXPECT_THAT(resumed(1), HasSubstr("bytes that do not count"));
    replace_contents(journal_path(), journal_);
  }
}

TEST_F(DamagedRun, JournalChangedInTheMiddle) {
  std::string changed = journal_;
  changed[changed.size() / 2] = '#';
  replace_contents(journal_path(), changed);
  EXPECT_THAT(resumed(2), HasSubstr("bytes that do not count"));
}

}  // namespace
}  // namespace quern::test
