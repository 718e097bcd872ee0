#pragma once

#include <string>
#include <vector>

#include "tests/pipeline/model/tiny_model.h"
#include "workers/session.h"

namespace quern::test {

/// A model of one block.
struct BlockVariant {
  std::string name;
  TinyModel model;
};

/// Grouped queries; with a sliding window; with biases everywhere; with wide heads.
std::vector<BlockVariant> block_variants();

/// Two sequences of this length, forward and backward through the variant's block on the session's
/// device and on the CPU in float32: the outputs, the gradients, and what every module reads. The
/// rms of each difference is at most 8 roundings of the activation type (64 in float32, whose sums
/// differ too) of the larger of the rms of the CPU's values and of the output's gradient.
void expect_block_like_cpu(const BlockVariant& variant, Session& session, DType activation,
                           std::int64_t length);

}  // namespace quern::test
