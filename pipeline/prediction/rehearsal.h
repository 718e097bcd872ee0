#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "pipeline/config/run_config.h"
#include "pipeline/held_directory.h"
#include "pipeline/model/model_graph.h"
#include "pipeline/prediction/run_cost.h"
#include "workers/session.h"

namespace quern {

/// Shortened copies of a run on synthetic weights, one after the other. They lie in folders beside
/// where the run and its output will be, on the same disks; the folders go with this object, and
/// what a killed job left in them goes first.
class Rehearsals {
 public:
  /// Collective. run: the whole run. Throws ConfigError if another job rehearses it.
  Rehearsals(Session& session, const RunFile& run, const ModelGraph& graph);
  ~Rehearsals();
  Rehearsals(const Rehearsals&) = delete;             // owns folders
  Rehearsals& operator=(const Rehearsals&) = delete;  // likewise

  /// Collective. Runs the chosen layers of the model, from a folder to verified and evaluated
  /// files. The cost is complete on rank 0.
  RunCost run(std::span<const std::int64_t> layers, const std::function<bool()>& stop_requested);

  /// Whether token ids are made up, because the model folder has no tokenizer to make them with.
  bool makes_ids_up() const noexcept { return makes_ids_up_; }

  /// Collective. write_rate() of the output's disk.
  double write_rate(std::uint64_t bytes) const;

  /// Removes the folders. Collective; the destructor does it too, as well as it can.
  void remove();

 private:
  RunFile settings(std::span<const std::int64_t> layers) const;
  void synthesize(std::span<const std::int64_t> layers,
                  const std::function<bool()>& stop_requested) const;
  void prepare(RunFile& shortened, std::span<const std::int64_t> layers,
               const std::function<bool()>& stop_requested);
  void replace_text(TextConfig& text, std::int64_t windows, const char* name) const;
  void clear_run() const;
  void clear_model() const;

  Session& session_;
  const RunFile& whole_;
  const ModelGraph& graph_;
  std::filesystem::path scratch_;
  std::filesystem::path output_;
  bool makes_ids_up_ = false;
  std::vector<std::int64_t> synthesized_;  ///< layers of the model that is there
  std::unique_ptr<HeldDirectory> held_;
};

}  // namespace quern
