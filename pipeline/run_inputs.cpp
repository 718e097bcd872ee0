#include "pipeline/run_inputs.h"

#include <fmt/format.h>

#include "kernels/core/error.h"
#include "pipeline/identity.h"
#include "pipeline/shared_windows.h"
#include "workers/agreement.h"

namespace quern {
namespace {

std::optional<MicroBatches> calibration_batches(Session& session, const RunFile& config,
                                                const OpenModel& model, std::string& hash) {
  if (config.quantize.method == Method::rtn) return std::nullopt;
  session.enter("read the calibration text");
  TokenWindows windows = shared_calibration_windows(session, config, model);
  hash = windows.hash;
  return MicroBatches(std::move(windows.ids), config.calibration.micro_batch);
}

std::optional<MicroBatches> evaluation_batches(Session& session, const RunFile& config,
                                               const OpenModel& model) {
  if (config.evaluate.text.source.empty()) return std::nullopt;
  session.enter("read the evaluation text");
  TokenWindows windows = shared_evaluation_windows(session, config, model);
  return MicroBatches(std::move(windows.ids), config.evaluate.micro_batch);
}

}  // namespace

nlohmann::json identity_of(const Session& session, const RunFile& config, const RunInputs& inputs) {
  const bool calibrated = config.quantize.method != Method::rtn;
  return make_identity(config, inputs.model, calibrated ? inputs.calibration_hash : std::string(),
                       session.backend->numerics());
}

OpenModel open_on_all_ranks(Session& session, const RunFile& config,
                            const std::filesystem::path& folder) {
  OpenModel model;
  session.enter("open the model");
  run_agreed(session, [&] {
    const DType activation = session.backend->activation_dtype();
    // What is stored in FP8 fits a float.
    model = open_model(folder, config.model.ignore_fields,
                       activation == DType::f64 ? DType::f32 : activation);
  });
  return model;
}

MicroBatches required_evaluation_batches(Session& session, const RunFile& config,
                                         const OpenModel& model) {
  run_agreed(session, [&] {
    if (!config.evaluate.text.source.empty()) return;
    throw ConfigError(
        "evaluate.source: is missing; expected the text to evaluate on, in the run file "
        "or by --set evaluate.source=...");
  });
  return *evaluation_batches(session, config, model);
}

RunInputs read_inputs(Session& session, const RunFile& config, Stopwatch& watch) {
  RunInputs inputs;
  {
    const auto lap = watch.lap("open");
    inputs.model = open_on_all_ranks(session, config, config.model.path);
  }
  run_agreed(session, [&] {
    if (inputs.model.is_quantized) {
      throw InputError(
          fmt::format("{}: the model is quantized already; expected an unquantized model",
                      config.model.path.string()));
    }
  });
  const auto lap = watch.lap("tokenize");
  inputs.calibration = calibration_batches(session, config, inputs.model, inputs.calibration_hash);
  inputs.evaluation = evaluation_batches(session, config, inputs.model);
  return inputs;
}

}  // namespace quern
