#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "pipeline/config/run_config.h"
#include "workers/session.h"
#include "workers/store/run_holder.h"

namespace spdlog::sinks {
class sink;
}

namespace quern {

/// A run directory as long as a job works in it: the holder's mark and the log files. A sweep holds
/// its own around those of its points.
class HeldDirectory {
 public:
  /// Collective. Throws ConfigError if another job holds the directory.
  HeldDirectory(Session& session, const RunConfig& run);
  ~HeldDirectory();
  HeldDirectory(const HeldDirectory&) = delete;             // one mark
  HeldDirectory& operator=(const HeldDirectory&) = delete;  // likewise

 private:
  Session& session_;
  std::optional<RunHolder> holder_;
  std::function<void(const std::string&)> outer_;  ///< who was told of heartbeats before
  std::shared_ptr<spdlog::sinks::sink> sink_;
};

}  // namespace quern
