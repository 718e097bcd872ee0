#pragma once

#include <string>

#include "workers/session.h"

namespace quern::test {

/// What is allowed between a model on some device and the reference in float32.
struct ForwardTolerance {
  double hidden = 0.0;       ///< of each layer's input: rms, over the rms expected
  double hidden_peak = 0.0;  ///< largest difference, over the largest value
  double nll = 0.0;          ///< of a token, absolute
  double logits = 0.0;       ///< largest difference, over the largest value
  double gram = 0.0;         ///< of X^T X, as logits
  double gram_row = 0.0;     ///< of a row of it
};

/// For activations of a type, in a model of so many layers.
ForwardTolerance forward_tolerance(DType activation, std::int64_t layers);

/// Runs one micro-batch of the model through the session's device, and compares hidden states,
/// negative log-likelihoods, logits and X^T X with the reference folder's, which must be there.
/// activation: the type whose roundings are allowed for.
void expect_golden_forward(const std::string& model, Session& session, DType activation);

}  // namespace quern::test
