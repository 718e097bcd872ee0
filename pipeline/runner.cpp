#include "pipeline/runner.h"

#include <fmt/format.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <optional>

#include "kernels/core/error.h"
#include "pipeline/identity.h"
#include "pipeline/progress.h"
#include "pipeline/quantize_flow.h"
#include "pipeline/report.h"
#include "pipeline/run_weights.h"
#include "pipeline/shared_windows.h"
#include "pipeline/status.h"
#include "workers/agreement.h"
#include "workers/files/atomic_file.h"
#include "workers/store/run_holder.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

OpenModel open_on_all_ranks(Session& session, const RunFile& config, const fs::path& folder) {
  OpenModel model;
  session.enter("open the model");
  run_agreed(session, [&] { model = open_model(folder, config.model.ignore_fields); });
  return model;
}

/// The run directory as long as a job works in it: the holder's mark and the log files.
class HeldDirectory {
 public:
  HeldDirectory(Session& session, const RunFile& config) : session_(session) {
    const fs::path& directory = config.run.directory;
    run_agreed(session, [&] {
      if (!session.is_root()) return;
      make_directories(directory / "log");
      holder_.emplace(directory, config.run.watchdog);
    });
    run_agreed(session, [&] {
      const fs::path path = directory / "log" / fmt::format("rank-{:04}.log", session.rank());
      sink_ = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path.string());
      sink_->set_pattern("%Y-%m-%d %H:%M:%S.%e %l: %v");
      session.log->sinks().push_back(sink_);
    });
    if (holder_) {
      session.heartbeat->tell([this](const std::string& activity) { holder_->beat(activity); });
    }
  }
  ~HeldDirectory() {
    session_.heartbeat->tell({});
    if (sink_) std::erase(session_.log->sinks(), sink_);
  }
  HeldDirectory(const HeldDirectory&) = delete;             // one mark
  HeldDirectory& operator=(const HeldDirectory&) = delete;  // likewise

 private:
  Session& session_;
  std::optional<RunHolder> holder_;
  spdlog::sink_ptr sink_;
};

void check_space(const fs::path& path, std::uint64_t needed, const char* what) {
  fs::path existing = fs::absolute(path);
  while (!fs::exists(existing)) existing = existing.parent_path();
  std::error_code failed;
  const fs::space_info space = fs::space(existing, failed);
  if (failed || space.available >= needed) return;
  throw StoreError(
      fmt::format("{}: {} needs about {:.1f} MB, {:.1f} MB are free; free space or choose "
                  "another place, then run again",
                  path.string(), what, static_cast<double>(needed) / 1e6,
                  static_cast<double>(space.available) / 1e6));
}

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

/// What a run reads before it does anything: every mistake in it is found here.
struct Inputs {
  OpenModel model;
  Plan plan;
  std::optional<MicroBatches> calibration;  ///< absent for a method without statistics
  std::string calibration_hash;
  std::optional<MicroBatches> evaluation;
};

Inputs read_inputs(Session& session, const RunFile& config, Stopwatch& watch) {
  Inputs inputs;
  {
    const auto lap = watch.lap("open");
    inputs.model = open_on_all_ranks(session, config, config.model.path);
  }
  run_agreed(session, [&] {
    if (inputs.model.is_quantized) {
      throw InputError(
          fmt::format("{}: config.json has a quantization_config, the model is quantized already; "
                      "expected an unquantized model",
                      config.model.path.string()));
    }
    inputs.plan = make_plan(inputs.model.graph, config);
  });
  const auto lap = watch.lap("tokenize");
  inputs.calibration = calibration_batches(session, config, inputs.model, inputs.calibration_hash);
  inputs.evaluation = evaluation_batches(session, config, inputs.model);
  return inputs;
}

/// Collective: throws unless the output folder is free and the disks will hold what is coming.
void check_places(Session& session, const RunFile& config, const Inputs& inputs,
                  const nlohmann::json& provenance) {
  run_agreed(session, [&] {
    if (!session.is_root()) return;
    check_output_folder(config.output.path, provenance);
    make_directories(fs::absolute(config.output.path).parent_path());
    require_writable(fs::absolute(config.output.path).parent_path());
    const Estimate predicted = estimate(inputs.model.graph, inputs.plan, config, session.ranks());
    check_space(config.run.directory, predicted.state_bytes, "the state of the run");
    check_space(config.output.path, predicted.output_bytes, "the exported model");
  });
}

void log_start(const Session& session, const RunFile& config, const Inputs& inputs, bool resumed) {
  const ModelGeometry& geometry = inputs.model.graph.geometry;
  session.log->info("{} {}: '{}', {} layers, hidden {}; {} rank{}, {}",
                    resumed ? "resuming" : "quantizing", inputs.model.folder.string(),
                    geometry.model_type, geometry.layers, geometry.hidden, session.ranks(),
                    session.ranks() == 1 ? "" : "s", session.backend->numerics());
  session.log->info("run directory {}, output {}", config.run.directory.string(),
                    config.output.path.string());
  for (const std::string& warning : inputs.plan.warnings) session.log->warn("{}", warning);
}

/// Collective: the store of a held directory whose identity is this run's.
std::unique_ptr<StateStore> open_store(Session& session, const RunFile& config,
                                       const Inputs& inputs, const nlohmann::json& identity) {
  run_agreed(session, [&] {
    if (!session.is_root()) return;
    const bool resumed =
        settle_identity(config.run.directory, identity, config.run, session.commit_hook);
    for (const char* of_earlier_run : {"report.json", "report.html"}) {
      fs::remove(config.run.directory / of_earlier_run);
    }
    write_plan_file(config.run.directory, inputs.plan, session.commit_hook);
    log_start(session, config, inputs, resumed);
  });
  std::unique_ptr<StateStore> store;
  run_agreed(session, [&] {
    store = std::make_unique<StateStore>(config.run.directory, session.commit_hook);
    if (session.is_root() && store->ignored_journal_bytes() > 0) {
      session.log->warn(
          "the journal ends in {} bytes that do not count; what they named is done again",
          store->ignored_journal_bytes());
    }
  });
  return store;
}

/// Evaluation of the original and of the exported model.
void evaluate_both(RunContext& context, const MicroBatches& batches, RunOutcome& outcome) {
  const auto lap = context.watch.lap("evaluate");
  Session& session = context.session;
  if (session.is_root()) session.log->info("evaluating before and after");
  outcome.before =
      evaluate_perplexity(session, context.model.graph, *context.model.weights, batches);
  stop_if_asked(context);
  const OpenModel output = open_on_all_ranks(session, context.config, context.config.output.path);
  outcome.after = evaluate_perplexity(session, output.graph, *output.weights, batches);
}

/// report.json and report.html; the summary on rank 0.
std::string write_report(RunContext& context, const RunOutcome& outcome) {
  std::string summary;
  const nlohmann::json report = make_report(context, outcome);
  run_agreed(context.session, [&] {
    if (!context.session.is_root()) return;
    const fs::path& directory = context.config.run.directory;
    const CommitHook& hook = context.session.commit_hook;
    write_text_file(directory / "report.json", report.dump(2) + "\n", hook);
    write_text_file(directory / "report.html", report_html(report), hook);
    summary = report_summary(report, directory);
  });
  return summary;
}

void require_verified(Session& session, const VerifyResult& result, const fs::path& folder) {
  std::string problems;
  for (const std::string& problem : result.problems) problems += "\n  " + problem;
  run_agreed(session, [&] {
    if (session.is_root() && !result.passed()) {
      throw StoreError(
          fmt::format("{}: the exported model does not verify:{}\nremove it and run again",
                      folder.string(), problems));
    }
  });
}

/// Everything between the held directory and the report.
RunOutcome work(RunContext& context, const Inputs& inputs, const nlohmann::json& provenance,
                Progress& progress) {
  RunOutcome outcome;
  QuantizeFlow(context, inputs.calibration ? &*inputs.calibration : nullptr, progress).run();
  stop_if_asked(context);
  outcome.exported = export_model(context, provenance);
  stop_if_asked(context);
  outcome.verified = verify_output(context);
  require_verified(context.session, outcome.verified, context.config.output.path);
  stop_if_asked(context);
  if (inputs.evaluation) evaluate_both(context, *inputs.evaluation, outcome);
  return outcome;
}

/// Store, identity and plan of a run directory that is read, not worked in.
struct FinishedRun {
  OpenModel model;
  Plan plan;
  std::unique_ptr<StateStore> store;
};

FinishedRun open_finished(Session& session, const RunFile& config) {
  FinishedRun run;
  run.model = open_on_all_ranks(session, config, config.model.path);
  run_agreed(session, [&] {
    run.plan = make_plan(run.model.graph, config);
    if (!fs::exists(config.run.directory / "identity.json")) {
      throw ConfigError(fmt::format("run.directory: {} holds no run; run quantize first",
                                    config.run.directory.string()));
    }
    run.store = std::make_unique<StateStore>(config.run.directory);
  });
  return run;
}

}  // namespace

std::string run_quantize(Session& session, const RunFile& config, const RunnerOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  Stopwatch watch;
  const Inputs inputs = read_inputs(session, config, watch);
  const nlohmann::json identity =
      make_identity(config, inputs.model, inputs.calibration_hash, session.backend->numerics());
  const nlohmann::json provenance = make_provenance(identity, config.output);
  check_places(session, config, inputs, provenance);
  const HeldDirectory held(session, config);
  const std::unique_ptr<StateStore> store = open_store(session, config, inputs, identity);
  RunContext context{session, config, inputs.model,          inputs.plan,
                     *store,  watch,  options.stop_requested};
  Progress progress(session.log, {.enabled = session.is_root(), .terminal = options.terminal});
  RunOutcome outcome = work(context, inputs, provenance, progress);
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return write_report(context, outcome);
}

Perplexity run_evaluate(Session& session, const RunFile& config, Subject subject) {
  if (subject != Subject::run) {
    return run_evaluate_folder(
        session, config, subject == Subject::original ? config.model.path : config.output.path);
  }
  const FinishedRun run = open_finished(session, config);
  const MicroBatches batches = required_evaluation_batches(session, config, run.model);
  const RunWeights weights(*run.model.weights, run.plan, *run.store);
  return evaluate_perplexity(session, run.model.graph, weights, batches);
}

Perplexity run_evaluate_folder(Session& session, const RunFile& config, const fs::path& folder) {
  const OpenModel model = open_on_all_ranks(session, config, folder);
  const MicroBatches batches = required_evaluation_batches(session, config, model);
  return evaluate_perplexity(session, model.graph, *model.weights, batches);
}

VerifyResult run_verify(Session& session, const RunFile& config) {
  const FinishedRun run = open_finished(session, config);
  Stopwatch watch;
  RunContext context{session, config, run.model, run.plan, *run.store, watch, {}};
  return verify_output(context);
}

}  // namespace quern
