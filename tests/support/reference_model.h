#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace quern::test {

/// A LLaMA-like decoder as published, in float64 and plain loops; shares nothing with the code.
struct ReferenceModel {
  struct Matrix {
    std::size_t rows = 0;
    std::size_t columns = 0;
    std::vector<double> values;
  };

  std::size_t layers = 2;
  std::size_t heads = 4;
  std::size_t kv_heads = 2;
  std::size_t head_dim = 8;
  double epsilon = 1e-6;
  std::vector<double> frequencies;  ///< of the head_dim / 2 rotary pairs, radians per position
  std::vector<std::size_t> window;  ///< per layer: tokens a query sees, itself included; 0: all
  std::map<std::string, Matrix> tensors;  ///< by checkpoint name; a vector is one row

  /// [tokens, vocab] of one sequence. The head is lm_head.weight, or the embedding without it.
  std::vector<double> logits(const std::vector<int>& ids) const;
};

/// -ln softmax(logits[t])[ids[t + 1]] for all tokens but the last.
std::vector<double> reference_nll(const std::vector<double>& logits, const std::vector<int>& ids);

/// Rotary frequencies theta^(-2i/d), i < d/2.
std::vector<double> plain_frequencies(double theta, std::size_t head_dim);

/// As Meta's Llama 3.1 reference code scales them: wavelengths beyond original / low are stretched
/// by factor, those below original / high kept, the others interpolated.
std::vector<double> llama3_frequencies(std::vector<double> plain, double factor, double low,
                                       double high, double original);

}  // namespace quern::test
