#include "pipeline/prediction/rehearsal.h"

#include <algorithm>

#include "kernels/core/error.h"
#include "pipeline/prediction/disk_rates.h"
#include "pipeline/prediction/made_up_ids.h"
#include "pipeline/prediction/shortened_run.h"
#include "pipeline/runner.h"
#include "pipeline/shared_windows.h"
#include "pipeline/synthesis/synthesis.h"
#include "workers/agreement.h"
#include "workers/files/atomic_file.h"
#include "workers/host_memory.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

fs::path beside(const fs::path& path) {
  return (path.has_filename() ? path : path.parent_path()).string() + ".rehearsal";
}

RunConfig holding(const RunFile& run, const fs::path& directory) {
  RunConfig config = run.run;
  config.directory = directory;
  return config;
}

void stop_between(const std::function<bool()>& stop_requested) {
  if (!stop_requested || !stop_requested()) return;
  throw Interrupted("by a signal; nothing of the measurement is kept; run the same command again");
}

}  // namespace

Rehearsals::Rehearsals(Session& session, const RunFile& run, const ModelGraph& graph)
    : session_(session),
      whole_(run),
      graph_(graph),
      scratch_(beside(run.run.directory)),
      output_(beside(run.output.path)),
      makes_ids_up_((needs_tokenizer(run.calibration.text) || needs_tokenizer(run.evaluate.text)) &&
                    !has_tokenizer(run.model.path)),
      held_(std::make_unique<HeldDirectory>(session, holding(run, scratch_))) {
  run_agreed(session_, [&] {
    if (!session_.is_root()) return;
    clear_run();
    clear_model();
  });
}

Rehearsals::~Rehearsals() {
  held_.reset();
  if (!session_.is_root()) return;
  remove_directory(output_);  // the next measurement removes what is left
  remove_directory(output_.string() + ".partial");
  remove_directory(scratch_);
}

void Rehearsals::remove() {
  run_agreed(session_, [&] { held_.reset(); });  // nobody has files open there any more
  run_agreed(session_, [&] {
    if (!session_.is_root()) return;
    fs::remove_all(output_);
    fs::remove_all(scratch_);
  });
}

/// Rank 0: what a rehearsal leaves.
void Rehearsals::clear_run() const {
  for (const char* folder : {"run", "statistics"}) fs::remove_all(scratch_ / folder);
  fs::remove_all(output_);
  fs::remove_all(output_.string() + ".partial");
}

/// Rank 0: what it starts from.
void Rehearsals::clear_model() const {
  for (const char* folder : {"model", "model.partial", "ids"}) fs::remove_all(scratch_ / folder);
}

RunFile Rehearsals::settings(std::span<const std::int64_t> layers) const {
  RunFile run = shortened_run(whole_, graph_, layers);
  run.model.path = scratch_ / "model";
  run.run.directory = scratch_ / "run";
  run.output.path = output_;
  if (!run.run.statistics_directory.empty()) run.run.statistics_directory = scratch_ / "statistics";
  return run;
}

/// Rank 0: the model of these layers, and ids in the place of text that cannot be tokenized.
void Rehearsals::synthesize(std::span<const std::int64_t> layers,
                            const std::function<bool()>& stop_requested) const {
  const fs::path config = whole_.model.path / "config.json";
  const auto whole = nlohmann::ordered_json::parse(read_text_file(config));
  const Synthesis synthesis =
      plan_synthesis(shortened_config(whole, graph_, layers), config.string(),
                     {.shard_bytes = SynthesisShape{}.shard_bytes / 5,
                      .ignored_fields = whole_.model.ignore_fields});
  write_synthesis(
      synthesis,
      {.folder = scratch_ / "model",
       .threads = session_.threads * session_.ranks_on_host,
       .tokenizer = has_tokenizer(whole_.model.path) ? whole_.model.path : fs::path(),
       .wrote_shard = [&](const std::string&, std::uint64_t) { stop_between(stop_requested); }});
}

/// Ids in the place of what cannot be tokenized; rank 0 makes them up.
void Rehearsals::replace_text(TextConfig& text, std::int64_t windows, const char* name) const {
  if (!needs_tokenizer(text)) return;
  const fs::path file = scratch_ / "ids" / name;
  if (session_.is_root()) {
    make_directories(file.parent_path());
    const std::int64_t count = windows > 0 ? windows : guessed_windows(text);
    write_made_up_ids(file, count, text.sequence_length, graph_.geometry.vocab);
  }
  take_ids_from(file, text);
}

/// Collective. Weights and token ids for these layers, unless they are there from before.
void Rehearsals::prepare(RunFile& shortened, std::span<const std::int64_t> layers,
                         const std::function<bool()>& stop_requested) {
  session_.enter("write the weights of a rehearsal");
  run_agreed(session_, [&] {
    if (session_.is_root()) clear_run();
    if (session_.is_root() && !std::ranges::equal(layers, synthesized_)) {
      clear_model();
      synthesize(layers, stop_requested);
    }
    if (!makes_ids_up_) return;
    replace_text(shortened.calibration.text, whole_.calibration.samples, "calibration.safetensors");
    replace_text(shortened.evaluate.text, whole_.evaluate.samples, "evaluation.safetensors");
  });
  synthesized_.assign(layers.begin(), layers.end());
}

RunCost Rehearsals::run(std::span<const std::int64_t> layers,
                        const std::function<bool()>& stop_requested) {
  RunFile shortened = settings(layers);
  prepare(shortened, layers, stop_requested);
  restart_peak_resident();  // neither what wrote the weights nor an earlier rehearsal counts
  Stopwatch watch(session_.trace.get());
  const RunInputs inputs = read_inputs(session_, shortened, watch);
  const RunnerOptions options{
      .stop_requested = stop_requested, .terminal = false, .before = std::nullopt};
  const nlohmann::json report = run_prepared(session_, shortened, inputs, options, watch);
  return session_.is_root() ? cost_of(report) : RunCost{};
}

double Rehearsals::write_rate(std::uint64_t bytes) const {
  run_agreed(session_, [&] {
    if (!session_.is_root()) return;
    clear_run();
    make_directories(output_);
  });
  return quern::write_rate(session_, output_, bytes);
}

}  // namespace quern
