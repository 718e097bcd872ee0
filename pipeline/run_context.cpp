#include "pipeline/run_context.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "pipeline/gather_json.h"
#include "workers/agreement.h"

namespace quern {
namespace {

nlohmann::json to_json(const std::vector<JournalEntry>& entries) {
  nlohmann::json rows = nlohmann::json::array();
  for (const JournalEntry& entry : entries) rows.push_back({entry.name, entry.bytes, entry.hash});
  return rows;
}

std::vector<JournalEntry> to_entries(const nlohmann::json& rows) {
  std::vector<JournalEntry> entries;
  for (const nlohmann::json& row : rows) entries.push_back({row[0], row[1], row[2]});
  return entries;
}

}  // namespace

void stop_if_asked(RunContext& context) {
  const bool stop = any_rank(context.session, context.stop_requested && context.stop_requested());
  run_agreed(context.session, [&] {
    if (!stop) return;
    throw Interrupted("by a signal, after the unit in hand; run the same command to resume");
  });
}

void tell_committed(RunContext& context, std::span<const JournalEntry> bundles) {
  run_agreed(context.session, [&] {
    if (context.committed) context.committed(bundles);
  });
}

std::vector<JournalEntry> acknowledge(Session& session, StateStore& store,
                                      const std::vector<JournalEntry>& mine) {
  std::vector<JournalEntry> all;
  for (const nlohmann::json& rows : gather_json(session, to_json(mine))) {
    for (JournalEntry& entry : to_entries(rows)) all.push_back(std::move(entry));
  }
  std::ranges::sort(all, {}, &JournalEntry::name);
  run_agreed(session, [&] {
    if (session.is_root() && !all.empty()) store.acknowledge(all);
  });
  all = to_entries(broadcast_json(session, to_json(all)));
  if (!session.is_root()) store.learn(all);
  return all;
}

void set_aside_damaged(Session& session, StateStore& store, const std::vector<std::string>& names) {
  std::vector<std::int64_t> damaged(names.size());
  run_agreed(session, [&] {
    for (std::size_t i = 0; i < names.size(); ++i) {
      const bool mine = static_cast<int>(i) % session.ranks() == session.rank();
      if (mine && store.contains(names[i])) damaged[i] = !store.intact(names[i]);
    }
  });
  session.communicator->sum(damaged);
  run_agreed(session, [&] {
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (damaged[i] == 0) continue;
      if (!session.is_root()) {
        store.forget(names[i]);
        continue;
      }
      store.set_aside(names[i]);
      session.log->warn(
          "{} is damaged: length or hash differ from the journal; set aside, it will "
          "be computed again",
          names[i]);
    }
  });
}

void discard(Session& session, StateStore& store, const std::vector<std::string>& names) {
  run_agreed(session, [&] {
    for (const std::string& name : names) {
      if (!store.contains(name)) continue;
      session.is_root() ? store.discard(name) : store.forget(name);
    }
  });
}

void refuse_damaged(const StateStore& store, const std::string& bundle) {
  throw StoreError(
      fmt::format("{}: the bundle is damaged; run quantize again, which computes it anew",
                  (store.directory() / bundle).string()));
}

}  // namespace quern
