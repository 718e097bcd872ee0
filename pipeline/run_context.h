#pragma once

#include <functional>
#include <span>
#include <vector>

#include "pipeline/config/run_config.h"
#include "pipeline/model/weight_source.h"
#include "pipeline/plan.h"
#include "pipeline/stopwatch.h"
#include "workers/session.h"
#include "workers/store/state_store.h"

namespace quern {

/// What the stages of one run share, by reference; owned by the runner.
struct RunContext {
  Session& session;
  const RunFile& config;
  const OpenModel& model;
  const Plan& plan;
  StateStore& store;
  Stopwatch& watch;
  std::function<bool()> stop_requested;  ///< a signal asked this rank to stop
  /// Told on every rank of bundles that are committed, each once: of an earlier job when the run
  /// begins, its own when they are acknowledged. May throw; empty: nobody is told.
  std::function<void(std::span<const JournalEntry>)> committed = {};
};

/// Collective, between units: throws Interrupted on every rank if any was asked to stop.
void stop_if_asked(RunContext& context);

/// Collective: tells context.committed.
void tell_committed(RunContext& context, std::span<const JournalEntry> bundles);

/// Collective: rank 0 writes the entries of all ranks to the store's journal, in name order;
/// afterwards every rank's store knows them. Returns them.
std::vector<JournalEntry> acknowledge(Session& session, StateStore& store,
                                      const std::vector<JournalEntry>& mine);

/// Collective: forgets damaged files among `names`, setting them aside on rank 0 with a warning.
void set_aside_damaged(Session& session, StateStore& store, const std::vector<std::string>& names);

/// Throws StoreError: a bundle that the journal names cannot be read as it was written.
[[noreturn]] void refuse_damaged(const StateStore& store, const std::string& bundle);

/// On every rank: takes the files of the store among `names` out of it, and rank 0 removes them.
void discard(Session& session, StateStore& store, const std::vector<std::string>& names);

}  // namespace quern
