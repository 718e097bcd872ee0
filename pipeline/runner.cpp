#include "pipeline/runner.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <optional>

#include "kernels/core/error.h"
#include "pipeline/config/sweep.h"
#include "pipeline/device/device_memory.h"
#include "pipeline/estimate.h"
#include "pipeline/flows/quantize_run.h"
#include "pipeline/held_directory.h"
#include "pipeline/identity.h"
#include "pipeline/module_rows.h"
#include "pipeline/progress.h"
#include "pipeline/report/report.h"
#include "pipeline/run_weights.h"
#include "pipeline/status.h"
#include "workers/agreement.h"
#include "workers/files/atomic_file.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

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

/// Collective: throws unless the output folder is free and the disks will hold what is coming.
void check_places(Session& session, const RunFile& config, const ModelGraph& graph,
                  const Plan& plan, const nlohmann::json& provenance) {
  run_agreed(session, [&] {
    if (!session.is_root()) return;
    check_output_folder(config.output.path, provenance);
    make_directories(fs::absolute(config.output.path).parent_path());
    require_writable(fs::absolute(config.output.path).parent_path());
    const Estimate predicted = estimate(graph, plan, config, session.ranks());
    check_space(config.run.directory, predicted.state_bytes, "the state of the run");
    check_space(config.output.path, predicted.output_bytes, "the exported model");
  });
}

void log_start(const Session& session, const RunFile& config, const RunInputs& inputs,
               bool resumed) {
  const ModelGeometry& geometry = inputs.model.graph.geometry;
  session.log->info("{} {}: '{}', {} layers, hidden {}; {} rank{}, {}",
                    resumed ? "resuming" : "quantizing", inputs.model.folder.string(),
                    geometry.model_type, geometry.layers, geometry.hidden, session.ranks(),
                    session.ranks() == 1 ? "" : "s", session.backend->numerics());
  session.log->info("run directory {}, output {}", config.run.directory.string(),
                    config.output.path.string());
}

/// What makes a run: set up in this order, and the same for a point of a sweep.
struct PreparedRun {
  Plan plan;
  nlohmann::json identity;
  nlohmann::json provenance;
};

PreparedRun prepare(Session& session, const RunFile& config, const RunInputs& inputs) {
  PreparedRun run;
  run_agreed(session, [&] { run.plan = make_plan(inputs.model.graph, config); });
  check_device_memory(session, inputs.model.graph, run.plan, config);
  run.identity = identity_of(session, config, inputs);
  run.provenance = make_provenance(run.identity, config.output);
  check_places(session, config, inputs.model.graph, run.plan, run.provenance);
  return run;
}

/// Collective: the store of a held directory whose identity is this run's.
std::unique_ptr<StateStore> open_store(Session& session, const RunFile& config,
                                       const RunInputs& inputs, const PreparedRun& run) {
  run_agreed(session, [&] {
    if (!session.is_root()) return;
    const bool resumed = settle_identity({.directory = config.run.directory,
                                          .key = "run.directory",
                                          .contents = "a run",
                                          .resume = config.run.resume,
                                          .ignore_numerics = config.run.ignore_numerics},
                                         run.identity, session.commit_hook);
    for (const char* of_earlier_run : {"report.json", "report.html"}) {
      fs::remove(config.run.directory / of_earlier_run);
    }
    write_plan_file(config.run.directory, run.plan, session.commit_hook);
    log_start(session, config, inputs, resumed);
    for (const std::string& warning : run.plan.warnings) session.log->warn("{}", warning);
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

/// Evaluation of the original, unless its result is known, and of the exported model.
void evaluate_both(RunContext& context, const MicroBatches& batches, RunOutcome& outcome) {
  const auto lap = context.watch.lap("evaluate");
  Session& session = context.session;
  if (session.is_root()) session.log->info("evaluating before and after");
  if (!outcome.before) {
    outcome.before =
        evaluate_perplexity(session, context.model.graph, *context.model.weights, batches);
    stop_if_asked(context);
  }
  const OpenModel output = open_on_all_ranks(session, context.config, context.config.output.path);
  outcome.after = evaluate_perplexity(session, output.graph, *output.weights, batches);
}

/// report.json and report.html, which rank 0 returns.
nlohmann::json write_report(RunContext& context, const RunOutcome& outcome) {
  const nlohmann::json report = make_report(context, outcome);
  run_agreed(context.session, [&] {
    if (!context.session.is_root()) return;
    const fs::path& directory = context.config.run.directory;
    const CommitHook& hook = context.session.commit_hook;
    write_text_file(directory / "report.json", report.dump(2) + "\n", hook);
    write_text_file(directory / "report.html", report_html(report), hook);
  });
  return report;
}

void require_verified(Session& session, const VerifyResult& result, const fs::path& folder) {
  std::string problems;
  for (const std::string& problem : result.problems) problems += "\n  " + problem;
  run_agreed(session, [&] {
    if (session.is_root() && !result.passed()) {
      throw StoreError(fmt::format(
          "{}: this run's output does not verify:{}\ndelete the folder and run the same "
          "command again, which exports it anew",
          folder.string(), problems));
    }
  });
}

/// Everything between the held directory and the report.
void work(RunContext& context, const RunInputs& inputs, const PreparedRun& run, Progress& progress,
          RunOutcome& outcome) {
  ModelExport exporting(context, run.provenance);
  context.committed = [&](std::span<const JournalEntry> bundles) { exporting.take(bundles); };
  outcome.statistics = quantize_all(context, inputs.calibration ? &*inputs.calibration : nullptr,
                                    run.identity, progress);
  stop_if_asked(context);
  outcome.modules = module_rows(context);
  const std::vector<ModuleSummary> modules = read_summaries(outcome.modules);
  outcome.exported = exporting.finish(modules);
  stop_if_asked(context);
  outcome.verified = verify_output(context, modules, outcome.exported.hashes);
  require_verified(context.session, outcome.verified, context.config.output.path);
  stop_if_asked(context);
  if (inputs.evaluation) evaluate_both(context, *inputs.evaluation, outcome);
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

nlohmann::json run_prepared(Session& session, const RunFile& config, const RunInputs& inputs,
                            const RunnerOptions& options, Stopwatch& watch) {
  const auto start = std::chrono::steady_clock::now();
  const PreparedRun run = prepare(session, config, inputs);
  const HeldDirectory held(session, config.run);
  const std::unique_ptr<StateStore> store = open_store(session, config, inputs, run);
  RunContext context{session, config, inputs.model,          run.plan,
                     *store,  watch,  options.stop_requested};
  Progress progress(session.log, {.enabled = session.is_root(), .terminal = options.terminal});
  RunOutcome outcome;
  outcome.before = options.before;
  const bool is_fresh = store->entries().empty() && !options.before;
  work(context, inputs, run, progress, outcome);
  outcome.is_whole = is_fresh && outcome.statistics.reused == 0 && !outcome.exported.already_there;
  if (session.is_root()) log_device_peak(session);
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return write_report(context, outcome);
}

std::string run_quantize(Session& session, const RunFile& config, const RunnerOptions& options) {
  run_agreed(session, [&] {
    if (asks_for_sweep(config)) {
      throw ConfigError(
          "sweep: this run file describes a sweep; use 'quern sweep', or remove the "
          "section");
    }
  });
  Stopwatch watch(session.trace.get());
  const RunInputs inputs = read_inputs(session, config, watch);
  const nlohmann::json report = run_prepared(session, config, inputs, options, watch);
  return session.is_root() ? report_summary(report, config.run.directory) : std::string();
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
  Stopwatch watch(session.trace.get());
  RunContext context{session, config, run.model, run.plan, *run.store, watch, {}};
  return verify_output(context, read_summaries(module_rows(context)));
}

}  // namespace quern
