#include "pipeline/held_directory.h"

#include <fmt/format.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>

#include "workers/agreement.h"
#include "workers/files/atomic_file.h"

namespace quern {

HeldDirectory::HeldDirectory(Session& session, const RunConfig& run) : session_(session) {
  const std::filesystem::path& directory = run.directory;
  run_agreed(session, [&] {
    if (!session.is_root()) return;
    make_directories(directory / "log");
    holder_.emplace(directory, run.watchdog);
  });
  run_agreed(session, [&] {
    const auto path = directory / "log" / fmt::format("rank-{:04}.log", session.rank());
    sink_ = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path.string());
    sink_->set_pattern("%Y-%m-%d %H:%M:%S.%e %l: %v");
    session.log->sinks().push_back(sink_);
  });
  if (!holder_) return;
  outer_ = session.heartbeat->tell({});
  session.heartbeat->tell([this](const std::string& activity) {
    if (outer_) outer_(activity);
    holder_->beat(activity);
  });
}

HeldDirectory::~HeldDirectory() {
  if (holder_) session_.heartbeat->tell(std::move(outer_));
  if (sink_) std::erase(session_.log->sinks(), sink_);
}

}  // namespace quern
