#include "pipeline/flows/quantize_run.h"

#include <spdlog/spdlog.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "kernels/core/error.h"
#include "pipeline/flows/fisher_flow.h"
#include "pipeline/flows/quantize_flow.h"
#include "pipeline/flows/solve_flow.h"
#include "pipeline/held_directory.h"
#include "pipeline/identity.h"
#include "pipeline/model_budget.h"
#include "pipeline/stages/allocate.h"
#include "pipeline/stages/quantize.h"
#include "pipeline/statistics_store.h"
#include "workers/agreement.h"

namespace quern {
namespace {

using Bundles = std::vector<const BundleUnit*>;

/// One run's way from the plan to committed bundles.
class QuantizeRun {
 public:
  QuantizeRun(RunContext& context, const MicroBatches* batches, Progress& progress)
      : context_(context),
        batches_(batches),
        progress_(progress),
        quantize_(context, allocation_),
        needed_(quantize_.needed()) {}

  StatisticsOrigin run(const nlohmann::json& identity) {
    check_committed();
    if (shares_statistics()) open_statistics(identity);
    StatisticsOrigin origin;
    if (open().empty()) {
      context_.session.log->info("all {} bundles are committed by an earlier run",
                                 context_.plan.stored_bundles().size());
    } else {
      origin = solve_or_settle();
    }
    if (statistics_ && !keeps()) discard_own();
    return origin;
  }

 private:
  /// Stopped by a signal, what was solved is still committed.
  StatisticsOrigin solve_or_settle() {
    try {
      return solve_open();
    } catch (const Error& error) {
      if (error.exit_code() == ExitCode::interrupted && context_.session.leaving_together) {
        quantize_.settle();
      }
      throw;
    }
  }

  StatisticsOrigin solve_open() {
    std::optional<HeldDirectory> held;  // readers of kept statistics may be many, writers not
    if (statistics_ && stores_first() && !without_statistics().empty()) {
      held.emplace(context_.session, hold_on_statistics());
      load_statistics();  // another job may have added to them until now
    }
    StatisticsOrigin origin;
    if (statistics_) origin.reused = std::ssize(with_statistics());
    if (origin.reused > 0) {
      context_.session.log->info("statistics of {} of {} layer inputs are at hand: reused",
                                 origin.reused, open().size());
    }
    const Bundles lacking = without_statistics();
    if (needed_.any()) origin.measured = std::ssize(lacking);
    if (needed_.backward() && stores_first()) measure(lacking, keep());
    allocation_ = allocate(context_, statistics_ ? &*statistics_ : nullptr);
    solve_stored(context_, quantize_, with_statistics(), statistics_ ? &*statistics_ : nullptr,
                 progress_);
    if (needed_.backward()) {
      measure(open(), solve());
      quantize_.settle();
    } else if (!open().empty()) {
      QuantizeFlow(context_, quantize_, *batches_, keeps() ? &*statistics_ : nullptr, progress_)
          .run();
    }
    return origin;
  }

  bool keeps() const { return statistics_ && context_.config.run.statistics == Statistics::keep; }

  /// Whether everything is measured before anything is solved.
  bool stores_first() const { return keeps() || allocates_by_statistics(context_.config.quantize); }

  /// H measured behind quantized layers belongs to this run alone.
  bool shares_statistics() const {
    const QuantizeConfig& config = context_.config.quantize;
    return needed_.backward() || (needed_.gram && config.propagation == Propagation::original);
  }

  void check_committed() {
    std::vector<std::string> names;
    for (const BundleUnit* bundle : context_.plan.stored_bundles()) names.push_back(bundle->name);
    set_aside_damaged(context_.session, context_.store, names);
    std::erase_if(names, [&](const std::string& name) { return !context_.store.contains(name); });
    std::vector<JournalEntry> committed;
    for (const std::string& name : names) committed.push_back(context_.store.entries().at(name));
    tell_committed(context_, committed);
  }

  Bundles open() const {
    Bundles result;
    for (const BundleUnit* bundle : context_.plan.stored_bundles()) {
      if (!context_.store.contains(bundle->name)) result.push_back(bundle);
    }
    return result;
  }

  bool at_hand(const BundleUnit& bundle) const {
    return !needed_.any() || (statistics_ && statistics_->contains(bundle, needed_));
  }
  Bundles with_statistics() const {
    Bundles result = open();
    std::erase_if(result, [&](const BundleUnit* bundle) { return !at_hand(*bundle); });
    return result;
  }
  Bundles without_statistics() const {
    Bundles result = open();
    std::erase_if(result, [&](const BundleUnit* bundle) { return at_hand(*bundle); });
    return result;
  }

  std::filesystem::path statistics_directory() const {
    const RunConfig& run = context_.config.run;
    return run.statistics_directory.empty() ? run.directory / "statistics"
                                            : run.statistics_directory;
  }

  RunConfig hold_on_statistics() const {
    RunConfig run = context_.config.run;
    run.directory = statistics_directory();
    return run;
  }

  void open_statistics(const nlohmann::json& identity) {
    const RunConfig& run = context_.config.run;
    const auto directory = statistics_directory();
    // Without anything to share, a run leaves no such directory behind.
    bool used = run.statistics == Statistics::keep ||
                allocates_by_statistics(context_.config.quantize) ||
                std::filesystem::exists(directory / "journal");
    used = any_rank(context_.session, used);
    if (!used) return;
    run_agreed(context_.session, [&] {
      if (context_.session.is_root()) {
        prepare_statistics(context_.session, directory, statistics_identity(identity),
                           run.ignore_numerics);
      }
    });
    load_statistics();
  }

  void load_statistics() {
    run_agreed(context_.session,
               [&] { statistics_.emplace(context_.session, statistics_directory()); });
    statistics_->check(open());
  }

  void measure(const Bundles& bundles, const FisherFlow::Consume& consume) {
    if (bundles.empty()) return;
    FisherFlow(context_, *batches_, needed_, progress_).run(bundles, consume);
  }

  static std::vector<BundleTask> tasks_of(std::vector<MeasuredBundle>& measured) {
    std::vector<BundleTask> tasks;
    for (MeasuredBundle& bundle : measured) {
      tasks.push_back({bundle.bundle, bundle.owner, &bundle.statistics});
    }
    return tasks;
  }

  /// Writes what was measured into the statistics directory.
  FisherFlow::Consume keep() {
    return [this](std::vector<MeasuredBundle>& measured, const LayerWeights&) {
      keep_statistics(context_, *statistics_, tasks_of(measured));
    };
  }

  /// Solves what was measured at once: the statistics are never stored.
  FisherFlow::Consume solve() {
    return [this](std::vector<MeasuredBundle>& measured, const LayerWeights& weights) {
      quantize_.solve(tasks_of(measured), weights);
      if (context_.config.run.save_activations > 0) quantize_.settle();  // a resume starts there
    };
  }

  /// What only this run asked for goes when it is used up; a directory of the user's stays.
  void discard_own() {
    if (!context_.config.run.statistics_directory.empty()) return;
    statistics_->discard(context_.plan.stored_bundles());
    statistics_.reset();
    run_agreed(context_.session, [&] {
      if (context_.session.is_root()) std::filesystem::remove_all(statistics_directory());
    });
  }

  RunContext& context_;
  const MicroBatches* batches_;
  Progress& progress_;
  Allocation allocation_;
  QuantizeBundles quantize_;
  StatisticsNeeded needed_;
  std::optional<StatisticsStore> statistics_;
};

}  // namespace

StatisticsOrigin quantize_all(RunContext& context, const MicroBatches* batches,
                              const nlohmann::json& identity, Progress& progress) {
  return QuantizeRun(context, batches, progress).run(identity);
}

}  // namespace quern
