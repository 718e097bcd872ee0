#pragma once

#include <functional>

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
};

/// Collective, between units: throws Interrupted on every rank if any was asked to stop.
void stop_if_asked(RunContext& context);

/// Collective: rank 0 writes `entries` of all ranks to the store's journal, in name order;
/// afterwards every rank's store knows them.
void acknowledge(Session& session, StateStore& store, const std::vector<JournalEntry>& mine);

/// Collective: forgets damaged files among `names`, setting them aside on rank 0 with a warning.
void set_aside_damaged(Session& session, StateStore& store, const std::vector<std::string>& names);

/// On every rank: takes the files of the store among `names` out of it, and rank 0 removes them.
void discard(Session& session, StateStore& store, const std::vector<std::string>& names);

}  // namespace quern
