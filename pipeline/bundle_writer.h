#pragma once

#include <deque>
#include <filesystem>
#include <future>
#include <string>
#include <vector>

#include "pipeline/device/landing.h"
#include "pipeline/quantized_module.h"
#include "pipeline/run_context.h"

namespace quern {

/// Solved modules whose arrays are still to be unloaded.
struct LandedModules {
  std::vector<QuantizedModule> modules;  ///< their arrays are empty until landing.unload()
  Landing landing;
};

/// Commits solved bundles in the background, while the device goes on with the next. They count
/// when their batch is settled: a job killed before solves them again.
class BundleWriter {
 public:
  /// context: outlives this object.
  explicit BundleWriter(RunContext& context) : context_(context) {}

  /// Collective. What is written from now on belongs to this batch. Settles those before the latest
  /// one: a batch is left alone when the next begins, so that its last writes hold nobody.
  void begin(const std::string& batch);
  /// Returns at once unless many writes are under way. Throws StoreError of an earlier one.
  void write(const BundleUnit& bundle, LandedModules modules);

  /// Collective. On return, what any rank handed over is durable and acknowledged on every rank.
  void settle();

 private:
  struct Write {
    std::string batch;
    std::future<JournalEntry> entry;
  };

  void settle_oldest();
  void take_oldest();

  RunContext& context_;
  std::deque<std::string> batches_;  ///< to be settled, the same on every rank
  std::deque<Write> under_way_;
  std::vector<JournalEntry> written_;
};

}  // namespace quern
