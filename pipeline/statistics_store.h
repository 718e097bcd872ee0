#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "pipeline/plan.h"
#include "pipeline/statistics.h"
#include "workers/session.h"
#include "workers/store/state_store.h"

namespace quern {

/// Rank 0: makes the directory if it is not there. Throws ConfigError listing what differs when it
/// holds statistics of another `identity`.
void prepare_statistics(const Session& session, const std::filesystem::path& directory,
                        const nlohmann::json& identity, bool ignore_numerics);

/// Statistics of a model and its calibration text on disk: they depend on nothing else, so runs
/// with other bits, sparsity or method share them. A state store of its own, beside or inside run
/// directories. Collective calls are marked; all ranks make them together.
class StatisticsStore {
 public:
  /// Of a directory that prepare_statistics() has made ready.
  StatisticsStore(Session& session, const std::filesystem::path& directory);

  /// Whether everything `needed` of the bundle's input is there.
  bool contains(const BundleUnit& bundle, const StatisticsNeeded& needed) const;

  /// Collective: forgets damaged files of these bundles.
  void check(const std::vector<const BundleUnit*>& bundles);

  /// What of `statistics` is not there yet, written durably; for acknowledge().
  std::vector<JournalEntry> write(const BundleUnit& bundle, BundleStatistics& statistics) const;
  /// Collective: entries of all ranks.
  void acknowledge(const std::vector<JournalEntry>& entries);

  /// On the device. Throws StoreError if a file cannot be read back.
  BundleStatistics read(const BundleUnit& bundle, const StatisticsNeeded& needed) const;

  /// Collective: removes the statistics of these bundles.
  void discard(const std::vector<const BundleUnit*>& bundles);

 private:
  Bundle read_file(Statistic statistic, const BundleUnit& bundle) const;

  Session& session_;
  StateStore store_;
};

}  // namespace quern
