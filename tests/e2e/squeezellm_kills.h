#pragma once

#include "tests/e2e/kill_check.h"
#include "tests/e2e/squeezellm_variants.h"

namespace quern::test {

/// Solved while the backward pass leaves each layer; no statistics on disk.
inline Command solved_on_the_way() {
  return paper_rule().settings;
}

/// Everything is measured and kept, then solved from the files.
inline Command with_kept_statistics() {
  return paper_rule().settings + Command{"run.statistics=keep"};
}

/// Measured into files that the run removes when it has solved everything.
inline Command with_passing_statistics() {
  return squeezellm(
      "squeezellm_safetensors",
      {"quantize.bits=2", "quantize.sparsity={sensitive: 0.0045, rule: joint, budget: model}"});
}

}  // namespace quern::test
