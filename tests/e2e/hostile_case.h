#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "tests/e2e/hostile_folder.h"

namespace quern::test {

/// One mistake and what the program must say about it.
struct HostileCase {
  const char* name;
  int exit_code;
  std::vector<std::string> fragments;  ///< of the one error line: place, what, expected
  std::function<void(HostileFolder&)> spoil;
};

std::ostream& operator<<(std::ostream& stream, const HostileCase& row);
/// For INSTANTIATE_TEST_SUITE_P.
std::string name_of_case(const testing::TestParamInfo<HostileCase>& row);

/// Lines of standard error that begin with "quern: error:".
std::vector<std::string> error_lines(const std::string& err);

/// The answer to a mistake: the exit code, one error line, and every fragment somewhere behind its
/// beginning (some messages list several things).
void expect_answer(const ProcessResult& result, const HostileCase& row);

/// Runs the row on one process and checks the answer, that nothing was written to the output, that
/// no temporary file is left, and that it was quick.
void check_hostile_case(const HostileCase& row);

}  // namespace quern::test
