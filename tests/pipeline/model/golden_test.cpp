#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>

#include "pipeline/stages/calibrate.h"
#include "tests/pipeline/model/traced_model.h"
#include "tests/support/paths.h"
#include "tests/workers/test_session.h"
#include "workers/tensors/safetensors.h"

namespace quern::test {
namespace {

constexpr std::int64_t kLength = 256;

HostTensor read(const SafetensorsFile& file, const std::string& name) {
  const TensorEntry& entry = file.entries().at(name);
  HostTensor tensor(entry.dtype, entry.shape);
  file.read(entry, tensor.bytes);
  return tensor;
}

/// Largest difference over the largest expected value, and the same of root mean squares.
struct Deviation {
  double largest = 0.0;
  double rms = 0.0;
};

Deviation deviation(std::span<const float> found, std::span<const float> expected) {
  EXPECT_EQ(found.size(), expected.size());
  double top = 0.0;
  double worst = 0.0;
  double squares = 0.0;
  double energy = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double want = expected[i];
    const double difference = static_cast<double>(found[i]) - want;
    top = std::max(top, std::abs(want));
    worst = std::max(worst, std::isfinite(difference) ? std::abs(difference) : HUGE_VAL);
    squares += difference * difference;
    energy += want * want;
  }
  return {worst / top, std::sqrt(squares / energy)};
}

Deviation worse(const Deviation& a, const Deviation& b) {
  return {std::max(a.largest, b.largest), std::max(a.rms, b.rms)};
}

/// H in float32 from the fixed-point sums, both triangles.
std::vector<float> gram_of(Session& session, const HostTensor& x) {
  const std::int64_t k = x.shape[1];
  Calibrate calibrate(session, {k}, x.shape[0]);
  const Tensor device = session.backend->memory().to_device(x);
  calibrate.choose_exponents(0, &device);
  calibrate.add(0, device);
  EXPECT_FALSE(calibrate.overflowed());
  calibrate.reduce(std::array{0});
  const GramView view = calibrate.gram(0).view();
  const HostTensor sums = session.backend->memory().to_host(view.sums);
  const HostTensor exponents = session.backend->memory().to_host(view.exponents);
  const auto exponent = exponents.as<std::int32_t>();
  const auto size = static_cast<std::size_t>(k);
  std::vector<float> gram(size * size);
  for (std::size_t i = 0; i < size; ++i) {
    for (std::size_t j = i; j < size; ++j) {
      const auto sum = static_cast<double>(sums.as<std::int64_t>()[i * size + j]);
      gram[i * size + j] = static_cast<float>(std::ldexp(sum, -exponent[i] - exponent[j]));
      gram[j * size + i] = gram[i * size + j];
    }
  }
  return gram;
}

/// One model, run once, beside what the reference says of it.
struct Case {
  std::string name;
  SafetensorsFile golden;
  OpenModel model;
  Session session = quiet_session();
  Trace trace;

  explicit Case(const std::string& model_name)
      : name(model_name),
        golden(shared_dir() / "golden" / (model_name + ".safetensors")),
        model(open_model(shared_dir() / "models" / model_name, {})),
        trace(trace_model(session, model, MicroBatches(read(golden, "input_ids"), 4))) {}

  void report(const std::string& what, const Deviation& value) const {
    std::cout << name << " " << what << ": largest " << value.largest << ", rms " << value.rms
              << "\n";
  }
};

void expect_hidden(const Case& tested) {
  const HostTensor hidden = read(tested.golden, "hidden");
  const auto row = static_cast<std::size_t>(kLength * tested.model.graph.geometry.hidden);
  ASSERT_EQ(hidden.shape[0], static_cast<std::int64_t>(tested.trace.hidden.size()));
  Deviation layers;
  for (std::size_t i = 0; i < tested.trace.hidden.size(); ++i) {
    layers = worse(layers, deviation(tested.trace.hidden[i].as<float>().first(row),
                                     hidden.as<float>().subspan(i * row, row)));
  }
  tested.report("hidden", layers);
  EXPECT_LT(layers.largest, 2e-4);
  EXPECT_LT(layers.rms, 2e-4);
}

void expect_nll(const Case& tested) {
  const HostTensor nll = read(tested.golden, "token_nll");
  ASSERT_EQ(tested.trace.nll.size(), nll.as<float>().size());
  double worst = 0.0;
  for (std::size_t i = 0; i < tested.trace.nll.size(); ++i) {
    const float difference = std::abs(tested.trace.nll[i] - nll.as<float>()[i]);
    worst = std::isfinite(difference) ? std::max<double>(worst, difference) : HUGE_VAL;
  }
  std::cout << tested.name << " token_nll: largest difference " << worst << "\n";
  EXPECT_LT(worst, 1e-4);
}

void expect_logits(const Case& tested) {
  const HostTensor logits = read(tested.golden, "logits");
  const HostTensor positions = read(tested.golden, "logit_positions");
  const auto vocab = static_cast<std::size_t>(tested.model.graph.geometry.vocab);
  Deviation all;
  std::size_t row = 0;
  for (std::size_t sequence = 0; sequence < 4; ++sequence) {
    for (const std::int32_t position : positions.as<std::int32_t>()) {
      const std::size_t token = sequence * kLength + static_cast<std::size_t>(position);
      all = worse(all, deviation(tested.trace.logits.as<float>().subspan(token * vocab, vocab),
                                 logits.as<float>().subspan(row++ * vocab, vocab)));
    }
  }
  EXPECT_EQ(row, 32U);
  tested.report("logits", all);
  EXPECT_LT(all.largest, 2e-4);
}

void expect_statistics(Case& tested) {
  Deviation matrix;
  Deviation by_row;
  int compared = 0;
  for (const auto& [name, entry] : tested.golden.entries()) {
    if (!name.starts_with("xtx.")) continue;
    const std::vector<float> found =
        gram_of(tested.session, tested.trace.inputs.at(name.substr(4)));
    const HostTensor expected = read(tested.golden, name);
    matrix = worse(matrix, deviation(found, expected.as<float>()));
    const auto k = static_cast<std::size_t>(entry.shape[0]);
    for (std::size_t i = 0; i < k; ++i) {
      by_row = worse(by_row, deviation(std::span(found).subspan(i * k, k),
                                       expected.as<float>().subspan(i * k, k)));
    }
    ++compared;
  }
  EXPECT_EQ(compared, 4);
  tested.report("xtx by matrix", matrix);
  tested.report("xtx by row", by_row);
  EXPECT_LT(matrix.largest, 1e-5);
  EXPECT_LT(by_row.largest, 1e-4);
}

class Golden : public testing::TestWithParam<const char*> {};

TEST_P(Golden, ForwardAndStatisticsEqualTheReference) {
  if (shared_dir().empty()) GTEST_SKIP() << kNoShared;
  Case tested(GetParam());
  expect_hidden(tested);
  expect_nll(tested);
  expect_logits(tested);
  expect_statistics(tested);
}

INSTANTIATE_TEST_SUITE_P(Models, Golden, testing::Values("llama3m", "llama20m", "mistral9m"),
                         [](const auto& model) { return std::string(model.param); });

}  // namespace
}  // namespace quern::test
