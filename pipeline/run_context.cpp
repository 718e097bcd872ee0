#include "pipeline/run_context.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "pipeline/gather_json.h"
#include "workers/agreement.h"

namespace quern {
namespace {

std::vector<std::byte> to_bytes(const nlohmann::json& json) {
  const std::string text = json.dump();
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

nlohmann::json from_bytes(std::span<const std::byte> bytes) {
  return nlohmann::json::parse(reinterpret_cast<const char*>(bytes.data()),
                               reinterpret_cast<const char*>(bytes.data()) + bytes.size());
}

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

void acknowledge(RunContext& context, const std::vector<JournalEntry>& mine) {
  Communicator& communicator = *context.session.communicator;
  std::vector<JournalEntry> all;
  for (const nlohmann::json& rows : gather_json(context.session, to_json(mine))) {
    for (JournalEntry& entry : to_entries(rows)) all.push_back(std::move(entry));
  }
  std::ranges::sort(all, {}, &JournalEntry::name);
  run_agreed(context.session, [&] {
    if (context.session.is_root() && !all.empty()) context.store.acknowledge(all);
  });
  const auto known = from_bytes(broadcast_message(communicator, to_bytes(to_json(all)), 0));
  if (!context.session.is_root()) context.store.learn(to_entries(known));
}

void set_aside_damaged(RunContext& context, const std::vector<std::string>& names) {
  Session& session = context.session;
  std::vector<std::int64_t> damaged(names.size());
  run_agreed(session, [&] {
    for (std::size_t i = 0; i < names.size(); ++i) {
      const bool mine = static_cast<int>(i) % session.ranks() == session.rank();
      if (mine && context.store.contains(names[i])) damaged[i] = !context.store.intact(names[i]);
    }
  });
  session.communicator->sum(damaged);
  run_agreed(session, [&] {
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (damaged[i] == 0) continue;
      if (!session.is_root()) {
        context.store.forget(names[i]);
        continue;
      }
      context.store.set_aside(names[i]);
      session.log->warn(
          "{} is damaged: length or hash differ from the journal; set aside, it will "
          "be computed again",
          names[i]);
    }
  });
}

}  // namespace quern
