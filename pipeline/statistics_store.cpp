#include "pipeline/statistics_store.h"

#include <fmt/format.h>

#include <array>

#include "kernels/core/error.h"
#include "pipeline/identity.h"
#include "pipeline/run_context.h"
#include "workers/files/atomic_file.h"

namespace quern {
namespace {

struct StatisticRow {
  Statistic statistic;
  const char* name;
  bool StatisticsNeeded::*needed;
};

constexpr std::array kStatistics = {
    StatisticRow{Statistic::gram, "gram", &StatisticsNeeded::gram},
    StatisticRow{Statistic::fisher, "fisher", &StatisticsNeeded::fisher},
    StatisticRow{Statistic::guided, "guided", &StatisticsNeeded::guided},
};

/// "layers/layer-007/bundle-02-fisher.h5"
std::string file_name(Statistic statistic, const BundleUnit& bundle) {
  const std::string stem = bundle.name.substr(0, bundle.name.rfind('.'));
  return fmt::format("{}-{}.h5", stem, kStatistics.at(static_cast<std::size_t>(statistic)).name);
}

std::vector<std::string> file_names(const std::vector<const BundleUnit*>& bundles) {
  std::vector<std::string> names;
  for (const BundleUnit* bundle : bundles) {
    for (const StatisticRow& row : kStatistics) names.push_back(file_name(row.statistic, *bundle));
  }
  return names;
}

void put_gram(Bundle& bundle, Memory& memory, const std::string& name, Gram& gram) {
  bundle.arrays[name + "sums"] = memory.to_host(gram.sums.view());
  bundle.arrays[name + "exponents"] = memory.to_host(gram.exponents.view());
}

Gram take_gram(const Bundle& bundle, Memory& memory, const std::string& name) {
  Gram gram{memory.to_device(bundle.arrays.at(name + "sums")),
            memory.to_device(bundle.arrays.at(name + "exponents")),
            memory.allocate(DType::i64, {1})};
  memory.clear(gram.overflow.view());
  return gram;
}

Bundle pack(Statistic statistic, BundleStatistics& statistics, Memory& memory) {
  Bundle bundle{"{}", {}};
  if (statistic == Statistic::gram && statistics.gram) {
    put_gram(bundle, memory, "", *statistics.gram);
  }
  for (auto& [module, measured] : statistics.modules) {
    if (statistic == Statistic::fisher && measured.fisher) {
      bundle.arrays[module] = memory.to_host(measured.fisher->view());
    }
    if (statistic == Statistic::guided && measured.guided) {
      put_gram(bundle, memory, module + "/", *measured.guided);
    }
  }
  return bundle;
}

}  // namespace

void prepare_statistics(const Session& session, const std::filesystem::path& directory,
                        const nlohmann::json& identity, bool ignore_numerics) {
  make_directories(directory);
  settle_identity({.directory = directory,
                   .key = "run.statistics_directory",
                   .name = "the statistics directory",
                   .contents = "statistics",
                   .ignore_numerics = ignore_numerics},
                  identity, session.commit_hook);
}

StatisticsStore::StatisticsStore(Session& session, const std::filesystem::path& directory)
    : session_(session), store_(directory, session.commit_hook) {}

bool StatisticsStore::contains(const BundleUnit& bundle, const StatisticsNeeded& needed) const {
  for (const StatisticRow& row : kStatistics) {
    if (needed.*row.needed && !store_.contains(file_name(row.statistic, bundle))) return false;
  }
  return true;
}

void StatisticsStore::check(const std::vector<const BundleUnit*>& bundles) {
  set_aside_damaged(session_, store_, file_names(bundles));
}

std::vector<JournalEntry> StatisticsStore::write(const BundleUnit& bundle,
                                                 BundleStatistics& statistics) const {
  std::vector<JournalEntry> written;
  for (const StatisticRow& row : kStatistics) {
    const std::string name = file_name(row.statistic, bundle);
    if (store_.contains(name)) continue;
    const Bundle file = pack(row.statistic, statistics, session_.backend->memory());
    if (!file.arrays.empty()) written.push_back(store_.write(name, file));
  }
  return written;
}

void StatisticsStore::acknowledge(const std::vector<JournalEntry>& entries) {
  quern::acknowledge(session_, store_, entries);
}

Bundle StatisticsStore::read_file(Statistic statistic, const BundleUnit& bundle) const {
  const std::string name = file_name(statistic, bundle);
  auto file = store_.read(name);
  if (file) return std::move(*file);
  throw StoreError(
      fmt::format("{}: the statistics cannot be read back; remove the file and run again",
                  (store_.directory() / name).string()));
}

BundleStatistics StatisticsStore::read(const BundleUnit& bundle,
                                       const StatisticsNeeded& needed) const {
  Memory& memory = session_.backend->memory();
  BundleStatistics statistics;
  if (needed.gram) statistics.gram = take_gram(read_file(Statistic::gram, bundle), memory, "");
  if (needed.fisher) {
    const Bundle file = read_file(Statistic::fisher, bundle);
    for (const auto& [module, array] : file.arrays) {
      statistics.modules[module].fisher = memory.to_device(array);
    }
  }
  if (needed.guided) {
    const Bundle file = read_file(Statistic::guided, bundle);
    for (const LinearModule& module : bundle.input.modules) {
      statistics.modules[module.name].guided = take_gram(file, memory, module.name + "/");
    }
  }
  return statistics;
}

void StatisticsStore::discard(const std::vector<const BundleUnit*>& bundles) {
  quern::discard(session_, store_, file_names(bundles));
}

}  // namespace quern
