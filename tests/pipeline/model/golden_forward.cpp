#include "tests/pipeline/model/golden_forward.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>

#include "pipeline/stages/calibrate.h"
#include "tests/pipeline/model/deviation.h"
#include "tests/pipeline/model/golden_values.h"
#include "tests/pipeline/model/traced_model.h"
#include "tests/support/floats.h"
#include "tests/support/paths.h"

namespace quern::test {
namespace {

constexpr std::int64_t kLength = 256;

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
  Session& session;
  ForwardTolerance allowed;
  Trace trace;

  Case(const std::string& model_name, Session& device, DType activation)
      : name(model_name),
        golden(shared_dir() / "golden" / (model_name + ".safetensors")),
        model(open_model(shared_dir() / "models" / model_name, {})),
        session(device),
        allowed(forward_tolerance(activation, std::ssize(model.graph.layers))),
        trace(trace_model(session, model, MicroBatches(read(golden, "input_ids"), 4))) {}

  void report(const std::string& what, const Deviation& value) const {
    std::cout << name << " on " << session.backend->numerics() << ", " << what << ": largest "
              << value.largest << ", rms " << value.rms << "\n";
  }
};

void expect_hidden(const Case& tested) {
  const HostTensor hidden = read(tested.golden, "hidden");
  const auto row = static_cast<std::size_t>(kLength * tested.model.graph.geometry.hidden);
  ASSERT_EQ(hidden.shape[0], static_cast<std::int64_t>(tested.trace.hidden.size()));
  Deviation layers;
  for (std::size_t i = 0; i < tested.trace.hidden.size(); ++i) {
    const std::vector<float> found = floats_of(tested.trace.hidden[i]);
    layers = worse(
        layers, deviation(std::span(found).first(row), hidden.as<float>().subspan(i * row, row)));
  }
  tested.report("hidden", layers);
  EXPECT_LT(layers.largest, tested.allowed.hidden_peak);
  EXPECT_LT(layers.rms, tested.allowed.hidden);
}

void expect_nll(const Case& tested) {
  const HostTensor nll = read(tested.golden, "token_nll");
  ASSERT_EQ(tested.trace.nll.size(), nll.as<float>().size());
  double worst = 0.0;
  for (std::size_t i = 0; i < tested.trace.nll.size(); ++i) {
    const float difference = std::abs(tested.trace.nll[i] - nll.as<float>()[i]);
    worst = std::isfinite(difference) ? std::max<double>(worst, difference) : HUGE_VAL;
  }
  std::cout << tested.name << " on " << tested.session.backend->numerics()
            << ", token_nll: largest difference " << worst << "\n";
  EXPECT_LT(worst, tested.allowed.nll);
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
  EXPECT_LT(all.largest, tested.allowed.logits);
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
  EXPECT_LT(matrix.largest, tested.allowed.gram);
  EXPECT_LT(by_row.largest, tested.allowed.gram_row);
}

}  // namespace

/// Two to three times what the roundings alone do to these models, see golden_test.cpp.
ForwardTolerance forward_tolerance(DType activation, std::int64_t layers) {
  if (activation == DType::f32) return {2e-4, 2e-4, 1e-4, 2e-4, 1e-5, 1e-4};
  const double unit = depth_rounding(activation, layers);
  return {2 * unit, 3 * unit, 24 * unit, 3 * unit, unit, 6 * unit};
}

void expect_golden_forward(const std::string& model, Session& session, DType activation) {
  Case tested(model, session, activation);
  expect_hidden(tested);
  expect_nll(tested);
  expect_logits(tested);
  expect_statistics(tested);
}

}  // namespace quern::test
