#include "tests/support/reference_model.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace quern::test {
namespace {

using Matrix = ReferenceModel::Matrix;

/// x weight^T + bias.
Matrix linear(const std::map<std::string, Matrix>& tensors, const std::string& name,
              const Matrix& x) {
  const Matrix& weight = tensors.at(name + ".weight");
  const auto bias = tensors.find(name + ".bias");
  Matrix out{x.rows, weight.rows, std::vector<double>(x.rows * weight.rows)};
  for (std::size_t t = 0; t < x.rows; ++t) {
    for (std::size_t n = 0; n < weight.rows; ++n) {
      double sum = bias == tensors.end() ? 0.0 : bias->second.values[n];
      for (std::size_t k = 0; k < x.columns; ++k) {
        sum += x.values[t * x.columns + k] * weight.values[n * x.columns + k];
      }
      out.values[t * out.columns + n] = sum;
    }
  }
  return out;
}

Matrix rms_norm(const Matrix& x, const Matrix& weight, double epsilon) {
  Matrix out = x;
  for (std::size_t t = 0; t < x.rows; ++t) {
    double squares = 0.0;
    for (std::size_t k = 0; k < x.columns; ++k) squares += std::pow(x.values[t * x.columns + k], 2);
    const double norm = std::sqrt(squares / static_cast<double>(x.columns) + epsilon);
    for (std::size_t k = 0; k < x.columns; ++k) {
      out.values[t * x.columns + k] *= weight.values[k] / norm;
    }
  }
  return out;
}

void add(Matrix& x, const Matrix& delta) {
  for (std::size_t i = 0; i < x.values.size(); ++i) x.values[i] += delta.values[i];
}

/// Turns each pair (i, i + d/2) of a head by position * frequency, as a complex number.
void rotate(Matrix& x, const std::vector<double>& frequencies) {
  const std::size_t half = frequencies.size();
  for (std::size_t t = 0; t < x.rows; ++t) {
    for (std::size_t head = 0; head < x.columns; head += 2 * half) {
      for (std::size_t i = 0; i < half; ++i) {
        double& real = x.values[t * x.columns + head + i];
        double& imaginary = x.values[t * x.columns + head + half + i];
        const double angle = static_cast<double>(t) * frequencies[i];
        const double before = real;
        real = before * std::cos(angle) - imaginary * std::sin(angle);
        imaginary = before * std::sin(angle) + imaginary * std::cos(angle);
      }
    }
  }
}

struct Projections {
  Matrix q, k, v;
};

/// One query of one head: softmax over tokens first .. t, written into out.
void attend(const Projections& p, std::size_t t, std::size_t first, std::size_t q_at,
            std::size_t kv_at, std::size_t dim, Matrix& out) {
  std::vector<double> weights;
  for (std::size_t s = first; s <= t; ++s) {
    double score = 0.0;
    for (std::size_t i = 0; i < dim; ++i) {
      score += p.q.values[t * p.q.columns + q_at + i] * p.k.values[s * p.k.columns + kv_at + i];
    }
    weights.push_back(std::exp(score / std::sqrt(static_cast<double>(dim))));
  }
  double total = 0.0;
  for (const double weight : weights) total += weight;
  for (std::size_t s = first; s <= t; ++s) {
    for (std::size_t i = 0; i < dim; ++i) {
      out.values[t * out.columns + q_at + i] +=
          weights[s - first] / total * p.v.values[s * p.v.columns + kv_at + i];
    }
  }
}

Matrix attention(const ReferenceModel& model, std::size_t layer, const std::string& prefix,
                 const Matrix& x) {
  Projections p{linear(model.tensors, prefix + "q_proj", x),
                linear(model.tensors, prefix + "k_proj", x),
                linear(model.tensors, prefix + "v_proj", x)};
  rotate(p.q, model.frequencies);
  rotate(p.k, model.frequencies);
  Matrix out{p.q.rows, p.q.columns, std::vector<double>(p.q.values.size())};
  const std::size_t window = model.window[layer];
  for (std::size_t t = 0; t < x.rows; ++t) {
    const std::size_t first = window > 0 && t + 1 > window ? t + 1 - window : 0;
    for (std::size_t head = 0; head < model.heads; ++head) {
      const std::size_t kv_head = head / (model.heads / model.kv_heads);
      attend(p, t, first, head * model.head_dim, kv_head * model.head_dim, model.head_dim, out);
    }
  }
  return linear(model.tensors, prefix + "o_proj", out);
}

Matrix feed_forward(const ReferenceModel& model, const std::string& prefix, const Matrix& x) {
  Matrix gate = linear(model.tensors, prefix + "gate_proj", x);
  const Matrix up = linear(model.tensors, prefix + "up_proj", x);
  for (std::size_t i = 0; i < gate.values.size(); ++i) {
    const double value = gate.values[i];
    gate.values[i] = value / (1.0 + std::exp(-value)) * up.values[i];
  }
  return linear(model.tensors, prefix + "down_proj", gate);
}

}  // namespace

std::vector<double> ReferenceModel::logits(const std::vector<int>& ids) const {
  const Matrix& table = tensors.at("model.embed_tokens.weight");
  Matrix x{ids.size(), table.columns, {}};
  for (const int id : ids) {
    const auto row = table.values.begin() + id * static_cast<std::ptrdiff_t>(table.columns);
    x.values.insert(x.values.end(), row, row + static_cast<std::ptrdiff_t>(table.columns));
  }
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    const auto norm = [&](const std::string& name) {
      return rms_norm(x, tensors.at(prefix + name + ".weight"), epsilon);
    };
    add(x, attention(*this, layer, prefix + "self_attn.", norm("input_layernorm")));
    add(x, feed_forward(*this, prefix + "mlp.", norm("post_attention_layernorm")));
  }
  x = rms_norm(x, tensors.at("model.norm.weight"), epsilon);
  const bool tied = !tensors.contains("lm_head.weight");
  return linear(tensors, tied ? "model.embed_tokens" : "lm_head", x).values;
}

std::vector<double> reference_nll(const std::vector<double>& logits, const std::vector<int>& ids) {
  const std::size_t vocab = logits.size() / ids.size();
  std::vector<double> nll;
  for (std::size_t t = 0; t + 1 < ids.size(); ++t) {
    double total = 0.0;
    for (std::size_t v = 0; v < vocab; ++v) total += std::exp(logits[t * vocab + v]);
    nll.push_back(std::log(total) - logits[t * vocab + static_cast<std::size_t>(ids[t + 1])]);
  }
  return nll;
}

std::vector<double> plain_frequencies(double theta, std::size_t head_dim) {
  std::vector<double> frequencies;
  for (std::size_t i = 0; i < head_dim; i += 2) {
    frequencies.push_back(1.0 /
                          std::pow(theta, static_cast<double>(i) / static_cast<double>(head_dim)));
  }
  return frequencies;
}

std::vector<double> llama3_frequencies(std::vector<double> plain, double factor, double low,
                                       double high, double original) {
  for (double& frequency : plain) {
    const double wavelength = 2.0 * std::numbers::pi / frequency;
    if (wavelength < original / high) continue;
    if (wavelength > original / low) {
      frequency /= factor;
      continue;
    }
    const double smooth = (original / wavelength - low) / (high - low);
    frequency = (1.0 - smooth) * frequency / factor + smooth * frequency;
  }
  return plain;
}

}  // namespace quern::test
