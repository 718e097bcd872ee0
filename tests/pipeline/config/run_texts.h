#pragma once

#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "pipeline/config/parse.h"

namespace quern::test {

/// The four lines that a GPTQ run needs; `more` starts at line 5.
inline std::string run_text(const std::string& more = "") {
  return "model: {path: models/m}\n"
         "calibration: {source: text.txt}\n"
         "output: {path: out/m}\n"
         "run: {directory: runs/m}\n" +
         more;
}

inline ParsedRunFile parse(const std::string& text,
                           const std::vector<std::string>& overrides = {}) {
  return parse_run_file(text, "run.yaml", overrides);
}

/// The message of the ConfigError that parsing ends in; "" if it succeeds.
inline std::string complaint(const std::string& text,
                             const std::vector<std::string>& overrides = {}) {
  try {
    parse(text, overrides);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

}  // namespace quern::test
