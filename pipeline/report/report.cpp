#include "pipeline/report/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "pipeline/config/resolved.h"
#include "pipeline/estimate.h"
#include "pipeline/gather_json.h"
#include "pipeline/prediction/prediction.h"
#include "pipeline/report/prediction_view.h"
#include "workers/host_memory.h"
#include "workers/store/journal.h"

namespace quern {
namespace {

nlohmann::json to_json(const std::optional<Perplexity>& value) {
  if (!value) return nullptr;
  return {{"perplexity", value->perplexity},
          {"mean_nll", value->mean_nll},
          {"tokens", value->tokens},
          {"windows", value->windows}};
}

nlohmann::json to_json(const VerifyResult& verified) {
  return {{"passed", verified.passed()},
          {"files", verified.files},
          {"quantized_modules", verified.quantized_modules},
          {"other_tensors", verified.other_tensors},
          {"problems", verified.problems}};
}

/// {stage: seconds} of every rank -> per stage the longest rank, with its share of the whole.
nlohmann::json merge_times(const std::vector<nlohmann::json>& ranks, double total) {
  std::map<std::string, double> longest;
  for (const nlohmann::json& rank : ranks) {
    for (const auto& [stage, seconds] : rank.at("seconds").items()) {
      longest[stage] = std::max(longest[stage], seconds.get<double>());
    }
  }
  nlohmann::json rows = nlohmann::json::array();
  for (const auto& [stage, seconds] : longest) {
    rows.push_back({{"stage", stage}, {"seconds", seconds}, {"share", seconds / total}});
  }
  std::sort(rows.begin(), rows.end(),
            [](const auto& a, const auto& b) { return a["seconds"] > b["seconds"]; });
  return rows;
}

/// Layer by layer what this rank spent its time on.
nlohmann::json layer_times(const std::vector<Stopwatch::Layer>& layers) {
  nlohmann::json rows = nlohmann::json::array();
  for (const Stopwatch::Layer& layer : layers) {
    rows.push_back({{"layer", layer.layer},
                    {"seconds", layer.seconds},
                    {"stages", layer.parts},
                    {"idle", layer.idle()}});
  }
  return rows;
}

std::uint64_t bytes_of(const std::map<std::string, JournalEntry>& entries) {
  std::uint64_t bytes = 0;
  for (const auto& [name, entry] : entries) bytes += entry.bytes;
  return bytes;
}

/// What the run directory holds: bundles, and statistics that are kept in it.
std::uint64_t state_bytes(const RunContext& context) {
  const auto statistics = context.config.run.directory / "statistics" / "journal";
  const std::uint64_t kept =
      std::filesystem::exists(statistics) ? bytes_of(Journal(statistics).load().entries) : 0;
  return bytes_of(context.store.entries()) + kept;
}

std::uint64_t largest(const std::vector<nlohmann::json>& ranks, const char* key) {
  std::uint64_t most = 0;
  for (const nlohmann::json& rank : ranks) most = std::max(most, rank.at(key).get<std::uint64_t>());
  return most;
}

nlohmann::json memory_json(const RunContext& context, const std::vector<nlohmann::json>& ranks,
                           const Estimate& predicted) {
  const bool has_device = context.session.backend->memory().limit_bytes() != Memory::unlimited;
  nlohmann::json memory = {{"peak_rank_bytes", largest(ranks, "peak_bytes")},
                           {"peak_device_bytes", nullptr},
                           {"predicted_rank_bytes", predicted.peak_rank_bytes()}};
  if (has_device) memory["peak_device_bytes"] = largest(ranks, "peak_device_bytes");
  return memory;
}

double total_objective(const nlohmann::json& modules) {
  double total = 0.0;
  for (const auto& module : modules) total += module.at("objective").get<double>();
  return total;
}

}  // namespace

nlohmann::json make_report(RunContext& context, const RunOutcome& outcome) {
  const std::vector<nlohmann::json> ranks = gather_json(
      context.session, {{"seconds", context.watch.seconds()},
                        {"peak_bytes", peak_resident_bytes()},
                        {"peak_device_bytes", context.session.backend->memory().peak_bytes()}});
  if (!context.session.is_root()) return {};
  const Estimate predicted =
      estimate(context.model.graph, context.plan, context.config, context.session.ranks());
  nlohmann::json report = {
      {"tool", fmt::format("quern {}", QUERN_VERSION)},
      {"numerics", context.session.backend->numerics()},
      {"ranks", context.session.ranks()},
      {"config", resolved_json(context.config)},
      {"model",
       {{"path", context.model.folder.string()},
        {"type", context.model.graph.geometry.model_type},
        {"layers", context.model.graph.geometry.layers}}},
      {"seconds", outcome.seconds},
      {"stages", merge_times(ranks, outcome.seconds)},
      {"layers", layer_times(context.watch.layers())},
      {"memory", memory_json(context, ranks, predicted)},
      {"state", {{"bytes", state_bytes(context)}}},
      {"perplexity", {{"before", to_json(outcome.before)}, {"after", to_json(outcome.after)}}},
      {"output",
       {{"path", outcome.exported.folder.string()},
        {"bytes", outcome.exported.bytes},
        {"predicted_bytes", predicted.output_bytes},
        {"bits_per_quantized_weight", outcome.exported.bits_per_weight()}}},
      {"verify", to_json(outcome.verified)},
      {"warnings", context.plan.warnings},
      {"statistics",
       {{"reused", outcome.statistics.reused}, {"measured", outcome.statistics.measured}}},
      {"objective", total_objective(outcome.modules)},
      {"modules", outcome.modules}};
  report["prediction"] = compare_with_file(
      context.config,
      {cost_of(report), circumstances_of(context.session, context.config), outcome.is_whole});
  return report;
}

std::string report_summary(const nlohmann::json& report, const std::filesystem::path& directory) {
  const auto& output = report.at("output");
  const auto& before = report.at("perplexity").at("before");
  const auto& after = report.at("perplexity").at("after");
  std::string text = fmt::format("\nquantized {} modules in {:.1f} s on {} rank{}\n",
                                 report.at("modules").size(), report.at("seconds").get<double>(),
                                 report.at("ranks").get<int>(), report.at("ranks") == 1 ? "" : "s");
  text += fmt::format("  size        {:.2f} MB, {:.3f} bits per quantized weight\n",
                      output.at("bytes").get<double>() / 1e6,
                      output.at("bits_per_quantized_weight").get<double>());
  if (!before.is_null() && !after.is_null()) {
    text += fmt::format("  perplexity  {:.3f} before, {:.3f} after ({} windows)\n",
                        before.at("perplexity").get<double>(), after.at("perplexity").get<double>(),
                        after.at("windows").get<std::int64_t>());
  }
  text += fmt::format("  verified    {} modules, {} other tensors, {} files\n",
                      report.at("verify").at("quantized_modules").get<int>(),
                      report.at("verify").at("other_tensors").get<int>(),
                      report.at("verify").at("files").get<int>());
  const std::string predicted = prediction_line(report.value("prediction", nlohmann::json()));
  if (!predicted.empty()) text += fmt::format("  predicted   {}\n", predicted);
  text += fmt::format("  model       {}\n  report      {}\n", output.at("path").get<std::string>(),
                      (directory / "report.html").string());
  return text;
}

}  // namespace quern
