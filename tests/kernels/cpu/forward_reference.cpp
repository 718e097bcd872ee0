#include "tests/kernels/cpu/forward_reference.h"

#include <algorithm>
#include <cmath>

namespace quern::test {
namespace {

std::size_t at(std::int64_t index) {
  return static_cast<std::size_t>(index);
}

double dot(const double* a, const double* b, std::int64_t n) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

double activate(Activation activation, double x) {
  if (activation == Activation::relu) return std::max(x, 0.0);
  if (activation == Activation::silu) return x / (1.0 + std::exp(-x));
  return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
}

}  // namespace

Values exact_linear(const Values& x, const Values& weight, std::int64_t inputs) {
  Values out;
  const auto stride = static_cast<std::ptrdiff_t>(inputs);
  for (auto token = x.begin(); token != x.end(); token += stride) {
    for (auto row = weight.begin(); row != weight.end(); row += stride) {
      out.push_back(dot(&*token, &*row, inputs));
    }
  }
  return out;
}

Values exact_rms_norm(const Values& x, const Values& weight, double epsilon) {
  Values out(x.size());
  const std::size_t width = weight.size();
  for (std::size_t row = 0; row < x.size(); row += width) {
    const auto n = static_cast<std::int64_t>(width);
    const double mean = dot(x.data() + row, x.data() + row, n) / static_cast<double>(n);
    for (std::size_t i = 0; i < width; ++i) {
      out[row + i] = x[row + i] / std::sqrt(mean + epsilon) * weight[i];
    }
  }
  return out;
}

Values exact_rotate(const Values& x, const Values& table, std::int64_t head_dim,
                    std::int64_t width) {
  Values out(x.size());
  const std::int64_t half = head_dim / 2;
  const auto positions = static_cast<std::int64_t>(table.size()) / head_dim;
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(x.size()); ++i) {
    const std::int64_t lane = i % head_dim;
    const double* angles = table.data() + i / width % positions * head_dim + lane % half;
    const double other = lane < half ? -x[at(i + half)] : x[at(i - half)];
    out[at(i)] = x[at(i)] * angles[0] + other * angles[half];
  }
  return out;
}

Values exact_attention(const Values& q, const Values& k, const Values& v,
                       const AttentionShape& shape) {
  const auto [heads, kv_heads, width, length, window, scale] = shape;
  Values out(q.size(), 0.0);
  Values weights;
  for (std::int64_t row = 0; row < static_cast<std::int64_t>(q.size()) / width; ++row) {
    const std::int64_t token = row / heads;
    const std::int64_t position = token % length;
    const std::int64_t seen = window == 0 ? position + 1 : std::min(window, position + 1);
    const std::int64_t kv_head = row % heads * kv_heads / heads;
    weights.clear();
    for (std::int64_t other = token - seen + 1; other <= token; ++other) {
      const double* key = k.data() + (other * kv_heads + kv_head) * width;
      weights.push_back(dot(q.data() + row * width, key, width) * static_cast<double>(scale));
    }
    const double largest = *std::ranges::max_element(weights);
    double sum = 0.0;
    for (double& weight : weights) sum += weight = std::exp(weight - largest);
    for (std::int64_t j = 0; j < seen; ++j) {
      const double* value = v.data() + ((token - seen + 1 + j) * kv_heads + kv_head) * width;
      for (std::int64_t d = 0; d < width; ++d) {
        out[at(row * width + d)] += weights[at(j)] / sum * value[d];
      }
    }
  }
  return out;
}

Values exact_gated_activation(const Values& gate, const Values& up, Activation activation) {
  Values out(gate.size());
  for (std::size_t i = 0; i < gate.size(); ++i) out[i] = activate(activation, gate[i]) * up[i];
  return out;
}

Values exact_token_nll(const Values& logits, const std::vector<std::int32_t>& targets,
                       std::int64_t words) {
  Values losses;
  for (std::size_t t = 0; t < targets.size(); ++t) {
    const double* row = logits.data() + static_cast<std::int64_t>(t) * words;
    const double largest = *std::max_element(row, row + words);
    double sum = 0.0;
    for (std::int64_t i = 0; i < words; ++i) sum += std::exp(row[i] - largest);
    losses.push_back(targets[t] < 0 ? 0.0 : std::log(sum) + largest - row[targets[t]]);
  }
  return losses;
}

}  // namespace quern::test
