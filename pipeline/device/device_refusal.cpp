#include "pipeline/device/device_refusal.h"

#include <fmt/format.h>

namespace quern {
namespace {

double gigabytes(std::uint64_t bytes) {
  return static_cast<double>(bytes) / 1e9;
}

DeviceNeeds needs_of(const ModelGraph& graph, const Plan& plan, RunFile config,
                     const DeviceUse& use, std::int64_t micro_batch) {
  config.calibration.micro_batch = micro_batch;
  return device_needs(graph, plan, config, use);
}

/// Least memory of evaluating with micro-batches of that size; 0 where nothing is evaluated.
std::uint64_t evaluation_bytes(const ModelGraph& graph, const RunFile& config, DType activation,
                               std::int64_t micro_batch) {
  const EvaluateConfig& evaluate = config.evaluate;
  if (evaluate.text.source.empty()) return 0;
  return evaluation_needs(graph, {1, micro_batch * evaluate.text.sequence_length}, activation)
      .least_bytes();
}

struct Fit {
  std::string key;
  std::int64_t micro_batch = 0;
  std::uint64_t bytes = 0;           ///< that it needs
  std::uint64_t bytes_of_one = 0;    ///< with micro-batches of one
  std::int64_t largest_fitting = 0;  ///< 0: none fits
};

template <typename BytesOf>
Fit find_fit(std::string key, std::int64_t micro_batch, std::uint64_t limit, BytesOf bytes_of) {
  Fit fit{std::move(key), micro_batch, bytes_of(micro_batch), bytes_of(1), 0};
  for (std::int64_t size = micro_batch; size > 0 && fit.largest_fitting == 0; --size) {
    if (bytes_of(size) <= limit) fit.largest_fitting = size;
  }
  return fit;
}

std::string describe(const Fit& fit, const std::string& what, const std::string& allowed) {
  std::string text = fmt::format("device memory: {} needs {:.2f} GB with {} {}", what,
                                 gigabytes(fit.bytes), fit.key, fit.micro_batch);
  if (fit.micro_batch > 1) text += fmt::format(", {:.2f} GB with 1", gigabytes(fit.bytes_of_one));
  text += fmt::format("; {}. ", allowed);
  if (fit.largest_fitting > 0) {
    return text + fmt::format("{}: {} fits; or use a device with more memory", fit.key,
                              fit.largest_fitting);
  }
  return text + "No micro-batch is small enough: use a device with more memory";
}

std::string describe_parts(const DeviceNeeds& needs) {
  return fmt::format(
      " (weights of two layers {:.2f} GB, statistics {:.2f} GB, solver or micro-batch {:.2f} GB)",
      gigabytes(needs.weight_bytes), gigabytes(needs.statistics_bytes),
      gigabytes(needs.work_bytes));
}

}  // namespace

std::string device_refusal(const ModelGraph& graph, const Plan& plan, const RunFile& config,
                           const DeviceUse& use, std::uint64_t limit_bytes) {
  const std::uint64_t asked = config.run.gpu_memory_bytes;
  const std::string allowed =
      asked > 0 && limit_bytes == asked
          ? fmt::format("run.gpu_memory allows {:.2f} GB", gigabytes(limit_bytes))
          : fmt::format("{:.2f} GB are free on the device", gigabytes(limit_bytes));
  const Fit run = find_fit(
      "calibration.micro_batch", config.calibration.micro_batch, limit_bytes,
      [&](std::int64_t size) { return needs_of(graph, plan, config, use, size).least_bytes(); });
  if (run.bytes > limit_bytes) {
    return describe(run, "the run", allowed) +
           describe_parts(needs_of(graph, plan, config, use, run.micro_batch));
  }
  const Fit evaluation = find_fit(
      "evaluate.micro_batch", config.evaluate.micro_batch, limit_bytes,
      [&](std::int64_t size) { return evaluation_bytes(graph, config, use.activation, size); });
  return evaluation.bytes > limit_bytes ? describe(evaluation, "the evaluation", allowed) : "";
}

}  // namespace quern
