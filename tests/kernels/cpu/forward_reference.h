#pragma once

#include <vector>

#include "kernels/layer_ops.h"

namespace quern::test {

/// The operations of LayerOps by their definitions in double, for gradients by finite differences.
using Values = std::vector<double>;

/// x [T, inputs] times the transpose of weight [N, inputs].
Values exact_linear(const Values& x, const Values& weight, std::int64_t inputs);

Values exact_rms_norm(const Values& x, const Values& weight, double epsilon);

/// Activations [T, heads * d]; `width` = heads * d.
Values exact_rotate(const Values& x, const Values& table, std::int64_t head_dim,
                    std::int64_t width);

Values exact_attention(const Values& q, const Values& k, const Values& v,
                       const AttentionShape& shape);

Values exact_gated_activation(const Values& gate, const Values& up, Activation activation);

/// One loss for each row of `words` logits.
Values exact_token_nll(const Values& logits, const std::vector<std::int32_t>& targets,
                       std::int64_t words);

}  // namespace quern::test
