#include "pipeline/prediction/predict.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "kernels/core/error.h"
#include "pipeline/config/sweep.h"
#include "pipeline/device/device_memory.h"
#include "pipeline/estimate.h"
#include "pipeline/prediction/cuts.h"
#include "pipeline/prediction/disk_rates.h"
#include "pipeline/prediction/kept_inputs.h"
#include "pipeline/prediction/prediction.h"
#include "pipeline/prediction/rehearsal.h"
#include "workers/agreement.h"
#include "workers/files/atomic_file.h"
#include "workers/host_memory.h"

namespace quern {
namespace {

constexpr std::uint64_t kDiskProbeBytes = 256'000'000;

struct WholeRun {
  const RunFile& run;
  ModelGraph graph;
  Plan plan;

  std::int64_t layers() const { return graph.geometry.layers; }
};

/// Collective. The run as `quantize` would see it, without weights.
WholeRun open_whole(Session& session, const RunFile& run) {
  WholeRun whole{run, {}, {}};
  run_agreed(session, [&] {
    if (asks_for_sweep(run)) {
      throw ConfigError(
          "sweep: plan --measure predicts one run and this run file describes a sweep; expected a "
          "run file without the section; remove it, or measure a point of it as a run");
    }
    whole.graph = read_model_graph(run.model.path, run.model.ignore_fields);
    whole.plan = make_plan(whole.graph, run);
  });
  check_device_memory(session, whole.graph, whole.plan, run);
  return whole;
}

/// The rehearsals' cost, extrapolated to the whole run. Complete on rank 0.
RunCost rehearse(Session& session, Rehearsals& rehearsals, const std::vector<Cut>& cuts,
                 const std::function<bool()>& stop_requested) {
  const auto run = [&](const Cut& cut) {
    if (session.is_root()) session.log->info("rehearsing {} layers", cut.layers.size());
    return rehearsals.run(cut.layers, stop_requested);
  };
  const RunCost first = run(cuts.front());
  if (cuts.size() == 1) return first;
  const RunCost repeated = run(cuts.front());
  std::vector<LongerRun> longer;
  for (auto cut = cuts.begin() + 1; cut != cuts.end(); ++cut) {
    longer.push_back({run(*cut), cut->added, cut->missing});
  }
  return extrapolated(first, repeated, longer);
}

/// Where the layer inputs of this many layers are kept: the one thing in memory that grows with
/// them.
KeptInputs kept_by(const Session& session, const WholeRun& whole, std::int64_t layers) {
  const std::uint64_t asked = whole.run.run.activation_bytes;
  const std::uint64_t budget = asked > 0 ? asked : host_bytes_of_rank(session.ranks_on_host) / 2;
  DeviceNeeds needs = device_needs(whole.graph, whole.plan, whole.run,
                                   {session.ranks(), session.backend->activation_dtype()});
  needs.layer_input_bytes = needs.layer_input_bytes / static_cast<std::uint64_t>(whole.layers()) *
                            static_cast<std::uint64_t>(layers);
  return kept_inputs(needs, session.backend->memory().limit_bytes(), budget);
}

void add_kept_inputs(const KeptInputs& whole, const KeptInputs& rehearsed, RunCost& cost) {
  const auto more = [](std::uint64_t all, std::uint64_t some) {
    return static_cast<double>(all) - static_cast<double>(some);
  };
  cost.host_bytes += more(whole.host_bytes, rehearsed.host_bytes);
  if (cost.device_bytes) *cost.device_bytes += more(whole.device_bytes, rehearsed.device_bytes);
}

/// A run takes at least as long as its disk takes for what is read or written.
void wait_for_disk(double seconds, const char* what, RunCost& cost, nlohmann::json& assumptions) {
  if (seconds <= cost.seconds) return;
  cost.seconds = seconds;
  assumptions.push_back(fmt::format("the disk decides how long it takes, by what is {}", what));
}

nlohmann::json assumptions_of(const RunFile& run, bool made_up_ids, const StoredWeights& weights) {
  nlohmann::json texts = {"nothing of the run is committed yet"};
  texts.push_back(
      weights.bytes == 0
          ? std::string("weights are read from memory, as those of the rehearsals")
          : fmt::format("weights are read at {:.0f} MB/s, as now", weights.bytes_per_second / 1e6));
  if (made_up_ids) texts.push_back("random token ids, as the model folder has no tokenizer");
  if (run.run.save_activations > 0) texts.push_back("no time for run.save_activations");
  return texts;
}

/// Collective. What the rehearsals say, complete on rank 0.
nlohmann::json measure(Session& session, const WholeRun& whole,
                       const std::function<bool()>& stop_requested) {
  const auto start = std::chrono::steady_clock::now();
  const std::vector<Cut> cuts = cuts_of(layer_kinds(whole.graph, whole.plan));
  Rehearsals rehearsals(session, whole.run, whole.graph);
  RunCost cost = rehearse(session, rehearsals, cuts, stop_requested);
  const Estimate estimated = estimate(whole.graph, whole.plan, whole.run, session.ranks());
  const double written = rehearsals.write_rate(std::min(kDiskProbeBytes, estimated.output_bytes));
  const StoredWeights weights = read_rate(session, whole.run.model.path);
  nlohmann::json assumptions = assumptions_of(whole.run, rehearsals.makes_ids_up(), weights);
  rehearsals.remove();
  const KeptInputs kept = kept_by(session, whole, whole.layers());
  add_kept_inputs(kept, kept_by(session, whole, most_layers(cuts)), cost);
  if (written > 0) wait_for_disk(cost.disk_bytes() / written, "written", cost, assumptions);
  wait_for_disk(weights.seconds(), "read", cost, assumptions);
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
  nlohmann::json prediction = cost_json(cost);
  prediction["scratch"] = {{"bytes", kept.scratch_bytes}};
  prediction["assumptions"] = assumptions;
  prediction["rehearsals"] = {{"seconds", passed.count()}, {"layers", nlohmann::json::array()}};
  for (const Cut& cut : cuts) prediction["rehearsals"]["layers"].push_back(cut.layers.size());
  return prediction;
}

}  // namespace

nlohmann::json predict_run(Session& session, const RunFile& run,
                           const std::function<bool()>& stop_requested) {
  const WholeRun whole = open_whole(session, run);
  nlohmann::json prediction = measure(session, whole, stop_requested);
  run_agreed(session, [&] {
    if (!session.is_root()) return;
    prediction["tool"] = fmt::format("quern {}", QUERN_VERSION);
    prediction["holds_for"] = circumstances_of(session, run);
    make_directories(run.run.directory);
    write_text_file(prediction_file(run), prediction.dump(2) + "\n", session.commit_hook);
  });
  return prediction;
}

}  // namespace quern
