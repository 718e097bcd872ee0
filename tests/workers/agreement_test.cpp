#include "workers/agreement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <new>
#include <stdexcept>

#include "tests/support/mpi_test_main.h"
#include "tests/workers/test_session.h"

namespace quern::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

Failure describe(const std::function<void()>& action) {
  try {
    action();
  } catch (...) {
    return describe_exception();
  }
  return {"nothing was thrown", ExitCode::done};
}

TEST(DescribeException, EachKindHasItsExitCode) {
  EXPECT_EQ(describe([] { throw ConfigError("c"); }).code, ExitCode::usage);
  EXPECT_EQ(describe([] { throw InputError("i"); }).message, "i");
  EXPECT_EQ(describe([] { throw std::bad_alloc(); }).code, ExitCode::memory);
  const Failure file = describe([] {
    throw std::filesystem::filesystem_error("rename", "a",
                                            std::make_error_code(std::errc::io_error));
  });
  EXPECT_EQ(file.code, ExitCode::file_system);
  const Failure other = describe([] { throw std::logic_error("oops"); });
  EXPECT_EQ(other.code, ExitCode::bug);
  EXPECT_THAT(other.message, AllOf(HasSubstr("oops"), HasSubstr("please report")));
}

TEST(RunAgreed, ReturnsWhereNobodyFails) {
  Session session = quiet_session(&mpi_environment());
  int calls = 0;
  run_agreed(session, [&] { ++calls; });
  EXPECT_EQ(calls, 1);
  EXPECT_FALSE(session.leaving_together);
}

TEST(RunAgreed, OneRanksErrorEndsAllOfThem) {
  Session session = quiet_session(&mpi_environment());
  const int failing = session.ranks() - 1;
  const auto work = [&] {
    if (session.rank() == failing) throw StoreError("the disk is full");
  };
  try {
    run_agreed(session, work);
    FAIL() << "nothing was thrown";
  } catch (const PeerError& error) {
    EXPECT_NE(session.rank(), failing);
    EXPECT_EQ(error.exit_code(), ExitCode::file_system);
    EXPECT_EQ(error.what(), "rank " + std::to_string(failing) + ": the disk is full");
  } catch (const StoreError& error) {
    EXPECT_EQ(session.rank(), failing);
    EXPECT_STREQ(error.what(), "the disk is full");
  }
  EXPECT_TRUE(session.leaving_together);
  session.communicator->barrier();  // nobody is left behind in a collective
}

TEST(RunAgreed, OfSeveralErrorsTheFirstRanksIsToldToTheRest) {
  Session session = quiet_session(&mpi_environment());
  std::string text;
  try {
    run_agreed(session, [&] {
      throw InputError("from " + std::string(1, static_cast<char>('0' + session.rank())));
    });
  } catch (const Error& error) {
    text = error.what();
    EXPECT_EQ(error.exit_code(), ExitCode::data);
  }
  EXPECT_EQ(text, session.is_root() ? "from 0" : "rank 0: from 0");
}

TEST(RunAgreed, StandardExceptionsTravelWithTheirCode) {
  Session session = quiet_session(&mpi_environment());
  try {
    run_agreed(session, [&] {
      if (session.is_root()) throw std::bad_alloc();
    });
    FAIL() << "nothing was thrown";
  } catch (const std::bad_alloc&) {
    EXPECT_TRUE(session.is_root());
  } catch (const PeerError& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::memory);
  }
}

TEST(AnyRank, IsTrueEverywhereIfItIsAnywhere) {
  Session session = quiet_session(&mpi_environment());
  EXPECT_FALSE(any_rank(session, false));
  EXPECT_TRUE(any_rank(session, session.rank() == session.ranks() - 1));
  EXPECT_TRUE(any_rank(session, true));
}

}  // namespace
}  // namespace quern::test
