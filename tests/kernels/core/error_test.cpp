#include "kernels/core/error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quern::test {
namespace {

template <typename E>
ExitCode exit_code_of() {
  try {
    throw E("what happened");
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "what happened");
    return error.exit_code();
  }
}

TEST(ErrorTest, ExitCodesAreThoseOfSysexits) {
  EXPECT_EQ(static_cast<int>(exit_code_of<ConfigError>()), 64);
  EXPECT_EQ(static_cast<int>(exit_code_of<InputError>()), 65);
  EXPECT_EQ(static_cast<int>(exit_code_of<DeviceError>()), 70);
  EXPECT_EQ(static_cast<int>(exit_code_of<InternalError>()), 70);
  EXPECT_EQ(static_cast<int>(exit_code_of<ShapeError>()), 70);
  EXPECT_EQ(static_cast<int>(exit_code_of<MemoryError>()), 71);
  EXPECT_EQ(static_cast<int>(exit_code_of<StoreError>()), 74);
  EXPECT_EQ(static_cast<int>(exit_code_of<CommunicationError>()), 75);
  EXPECT_EQ(static_cast<int>(exit_code_of<Interrupted>()), 75);
}

TEST(ErrorTest, EnsureNamesExpectationAndCaller) {
  EXPECT_NO_THROW(ensure(true, "the sun"));
  try {
    ensure(false, "a sorted list");
    FAIL();
  } catch (const InternalError& error) {
    EXPECT_THAT(error.what(), testing::AllOf(testing::HasSubstr("error_test.cpp"),
                                             testing::HasSubstr("a sorted list")));
  }
}

}  // namespace
}  // namespace quern::test
