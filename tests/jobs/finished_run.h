#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "tests/e2e/run_folder.h"

namespace quern::test {

/// Runs the program on one process and expects it to succeed. Returns its standard output.
std::string answer_of(const Command& arguments);
/// The same for output that is one JSON object.
nlohmann::json json_answer_of(const Command& arguments);

/// Settings that evaluate on the text of this repository.
Command evaluation_settings();

/// A quantized, exported and evaluated two-layer model, made once for a test program. Read only.
const RunFolder& finished_run();

}  // namespace quern::test
