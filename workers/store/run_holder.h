#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>

namespace quern {

/// Who works in a run directory now. Read by `status`.
struct HolderInfo {
  std::string host;
  int process = 0;
  std::string activity;                ///< last text given to beat()
  std::chrono::seconds heartbeat_age{0};
  bool alive = false;  ///< same host: the process exists with the recorded start time; another
                       ///< host: the heartbeat is younger than the silence limit
};

/// The mark "holder.json" that makes a second job on the directory stop at once. Rank 0 only.
/// No correctness depends on file locks: the mark is created with O_EXCL semantics (link), a dead
/// holder's mark is replaced, and the heartbeat inside tells the living from the dead elsewhere.
class RunHolder {
 public:
  /// Throws ConfigError naming host and process if another job holds the directory.
  explicit RunHolder(std::filesystem::path directory,
                     std::chrono::seconds silence = std::chrono::seconds(60));
  ~RunHolder();  ///< removes the mark
  RunHolder(const RunHolder&) = delete;             // one mark, one owner
  RunHolder& operator=(const RunHolder&) = delete;  // likewise

  /// Renews the heartbeat; from any thread; never throws (a full disk must not end the run).
  void beat(const std::string& activity) noexcept;

  /// Empty when no mark is there.
  static std::optional<HolderInfo> inspect(const std::filesystem::path& directory,
                                           std::chrono::seconds silence = std::chrono::seconds(60));

 private:
  std::filesystem::path path_;
  std::string identity_;
};

}  // namespace quern
