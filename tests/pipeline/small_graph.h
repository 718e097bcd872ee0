#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "pipeline/config/parse.h"
#include "pipeline/model/model_graph.h"
#include "pipeline/plan.h"
#include "tests/support/paths.h"

namespace quern::test {

/// The graph of llama3m: 4 layers, hidden 192, feed-forward 512, vocabulary 4096, head not tied.
inline ModelGraph small_graph() {
  return read_model_graph(source_dir() / "tests/data/llama3m", {});
}

/// A run file for it: 8 windows of 64, micro-batches of 2, and what `overrides` set.
inline RunFile small_run(const std::vector<std::string>& overrides = {}) {
  constexpr std::string_view text =
      "model: {path: m}\n"
      "calibration: {source: t.txt, samples: 8, sequence_length: 64, micro_batch: 2}\n"
      "quantize: {method: gptq, bits: 4, group_size: 64}\n"
      "output: {path: o, format: gptq}\n"
      "run: {directory: r}\n";
  return parse_run_file(text, "run.yaml", overrides).run;
}

}  // namespace quern::test
