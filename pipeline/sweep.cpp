#include "pipeline/sweep.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <nlohmann/json.hpp>

#include "pipeline/config/resolved.h"
#include "pipeline/gather_json.h"
#include "pipeline/held_directory.h"
#include "pipeline/report/sweep_report.h"
#include "pipeline/sweep_points.h"
#include "workers/agreement.h"
#include "workers/files/atomic_file.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// The point whose inputs are everybody's: one with calibration text if any has.
const RunFile& richest(const std::vector<SweepRun>& runs) {
  const auto found = std::ranges::find_if(
      runs, [](const SweepRun& run) { return run.config.quantize.method != Method::rtn; });
  return (found == runs.end() ? runs.front() : *found).config;
}

/// The report of a point that an earlier job finished; null if it is still to be done.
json finished_report(const Session& session, const SweepRun& run, const RunInputs& inputs) {
  const fs::path& directory = run.config.run.directory;
  if (!fs::exists(directory / "report.json") || !fs::exists(directory / "identity.json") ||
      !fs::exists(run.config.output.path / "SHA256SUMS")) {
    return nullptr;
  }
  const json identity = identity_of(session, run.config, inputs);
  const json there = json::parse(read_text_file(directory / "identity.json"), nullptr, false);
  const json report = json::parse(read_text_file(directory / "report.json"), nullptr, false);
  const bool same = there == identity && report.is_object() &&
                    report.value("config", json()) == resolved_json(run.config);
  return same ? report : json();
}

double statistics_seconds(const json& report) {
  constexpr std::array kStages = {"forward", "loss",   "backward",       "statistics",
                                  "reduce",  "replay", "keep statistics"};
  double seconds = 0.0;
  for (const auto& stage : report.at("stages")) {
    if (std::ranges::count(kStages, stage.at("stage").get<std::string>()) > 0) {
      seconds += stage.at("seconds").get<double>();
    }
  }
  return seconds;
}

json point_row(const SweepRun& run, const json& report) {
  const json& after = report.at("perplexity").at("after");
  return {{"name", run.name},
          {"settings", settings_json(run)},
          {"bits_per_weight", report.at("output").at("bits_per_quantized_weight")},
          {"bytes", report.at("output").at("bytes")},
          {"perplexity", after.is_null() ? json() : after.at("perplexity")},
          {"objective", report.at("objective")},
          {"seconds", report.at("seconds")},
          {"reused_statistics", report.at("statistics").at("reused").get<std::int64_t>() > 0},
          {"stages", report.at("stages")},
          {"modules", report.at("modules")},
          {"report", run.name + "/report.html"}};
}

/// What is known of a sweep; complete on rank 0.
class SweepResults {
 public:
  explicit SweepResults(std::chrono::steady_clock::time_point start) : start_(start) {}

  void add(const SweepRun& run, const json& report) {
    points_.push_back(point_row(run, report));
    statistics_seconds_ += statistics_seconds(report);
    const json& before = report.at("perplexity").at("before");
    if (!before.is_null()) before_ = before.at("perplexity");
    model_ = report.at("model");
    tool_ = report.at("tool");
  }

  json result() const {
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start_;
    return {{"tool", tool_},
            {"model", model_},
            {"perplexity_before", before_},
            {"seconds", passed.count()},
            {"statistics_seconds", statistics_seconds_},
            {"points", points_}};
  }

 private:
  std::chrono::steady_clock::time_point start_;
  json points_ = json::array();
  json before_;
  json model_;
  json tool_;
  double statistics_seconds_ = 0.0;
};

void write_results(const json& result, const fs::path& directory, const CommitHook& hook) {
  write_text_file(directory / "sweep.json", result.dump(2) + "\n", hook);
  write_text_file(directory / "sweep.csv", sweep_csv(result), hook);
  write_text_file(directory / "sweep.html", sweep_html(result), hook);
}

std::string sweep_summary(const json& result, const fs::path& directory) {
  std::string text = fmt::format("\n{} points in {:.1f} s\n  {:<32} {:>8} {:>10} {:>12}\n",
                                 result.at("points").size(), result.at("seconds").get<double>(),
                                 "point", "bits", "MB", "perplexity");
  for (const auto& point : result.at("points")) {
    const json& perplexity = point.at("perplexity");
    text += fmt::format(
        "  {:<32} {:>8.3f} {:>10.2f} {:>12}\n", point.at("name").get<std::string>(),
        point.at("bits_per_weight").get<double>(), point.at("bytes").get<double>() / 1e6,
        perplexity.is_null() ? "" : fmt::format("{:.3f}", perplexity.get<double>()));
  }
  return text + fmt::format("  report  {}\n", (directory / "sweep.html").string());
}

/// The original's perplexity, if some point's report has it.
std::optional<Perplexity> known_before(const std::vector<json>& reports) {
  for (const json& report : reports) {
    if (report.is_null()) continue;
    const json& before = report.at("perplexity").at("before");
    if (before.is_null()) continue;
    return Perplexity{.perplexity = before.at("perplexity"),
                      .mean_nll = before.at("mean_nll"),
                      .tokens = before.at("tokens"),
                      .windows = before.at("windows")};
  }
  return std::nullopt;
}

}  // namespace

std::string run_sweep(Session& session, const RunFile& config, const RunnerOptions& options) {
  SweepResults results(std::chrono::steady_clock::now());
  std::vector<SweepRun> runs;
  run_agreed(session, [&] { runs = expand_sweep(config); });
  Stopwatch reading(session.trace.get());
  const RunInputs inputs = read_inputs(session, richest(runs), reading);
  run_agreed(session, [&] {
    for (const SweepRun& run : runs) make_plan(inputs.model.graph, run.config);
  });
  const HeldDirectory held(session, config.run);
  std::vector<json> reports(runs.size());
  run_agreed(session, [&] {
    if (!session.is_root()) return;
    for (std::size_t i = 0; i < runs.size(); ++i) {
      reports[i] = finished_report(session, runs[i], inputs);
    }
  });
  reports = broadcast_json(session, reports).get<std::vector<json>>();
  RunnerOptions point_options = options;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const bool done = !reports[i].is_null();
    if (session.is_root()) {
      session.log->info("point {} of {}: {}{}", i + 1, runs.size(), runs[i].name,
                        done ? ", finished before" : "");
    }
    if (!done) {
      point_options.before = known_before(reports);
      Stopwatch watch(session.trace.get());
      const Trace::Span span(session.trace.get(), runs[i].name);
      reports[i] = broadcast_json(
          session, run_prepared(session, runs[i].config, inputs, point_options, watch));
    }
    // Finished points in a row are told of together, with the last of them.
    const bool more = done && i + 1 < runs.size() && !reports[i + 1].is_null();
    run_agreed(session, [&] {
      if (!session.is_root()) return;
      results.add(runs[i], reports[i]);
      if (!more) write_results(results.result(), config.run.directory, session.commit_hook);
    });
  }
  return session.is_root() ? sweep_summary(results.result(), config.run.directory) : std::string();
}

}  // namespace quern
