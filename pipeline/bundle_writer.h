#pragma once

#include <deque>
#include <filesystem>
#include <future>
#include <string_view>
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

/// Commits solved bundles in the background, while the device goes on with the next. What was
/// handed over counts only after settle(): a job killed before solves it again.
class BundleWriter {
 public:
  /// context: outlives this object.
  explicit BundleWriter(RunContext& context) : context_(context) {}

  /// Returns at once unless many writes are under way. Throws StoreError of an earlier one.
  void write(const BundleUnit& bundle, LandedModules modules);

  /// Collective. On return, what any rank handed over is durable and acknowledged on every rank.
  /// bundles: names them for the watchdog.
  void settle(std::string_view bundles);

 private:
  void take_oldest();

  RunContext& context_;
  std::deque<std::future<JournalEntry>> under_way_;
  std::vector<JournalEntry> written_;
};

}  // namespace quern
