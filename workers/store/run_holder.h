#pragma once

#include <chrono>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>

namespace quern {

/// Who works in a run directory now. Read by `status`.
struct HolderState {
  std::string host;  ///< "unknown" if the mark cannot be read
  int process = 0;
  std::string activity;                   ///< last text given to beat()
  std::chrono::seconds heartbeat_age{0};  ///< by the file system's clock
  bool alive = false;  ///< same machine: the process exists with the recorded start time; another
                       ///< one: the heartbeat is younger than the silence limit
};

/// The mark "holder.json" that makes a second job on the directory stop at once. Rank 0 only.
/// No correctness depends on file locks: the mark is created with O_EXCL semantics (link), a dead
/// holder's mark is replaced, and the heartbeat ("heartbeat.json") tells the living from the dead
/// elsewhere. A job that was silent too long and comes back finds out by taken_over().
class RunHolder {
 public:
  /// Throws ConfigError naming host and process if another job, or another holder in this process,
  /// holds the directory; StoreError if the mark cannot be made.
  explicit RunHolder(std::filesystem::path directory,
                     std::chrono::seconds silence = std::chrono::seconds(60));
  ~RunHolder();                                     ///< removes the mark if it is still this one's
  RunHolder(const RunHolder&) = delete;             // one mark, one owner
  RunHolder& operator=(const RunHolder&) = delete;  // likewise

  /// Renews the heartbeat; from any thread; never throws (a full disk must not end the run).
  void beat(const std::string& activity) noexcept;

  /// Whether another job's mark stands in the directory now; the run must then stop.
  bool taken_over() const noexcept;

  /// Empty when no mark is there. Needs no write access (without it, the local clock is used).
  static std::optional<HolderState> inspect(
      const std::filesystem::path& directory,
      std::chrono::seconds silence = std::chrono::seconds(60));

 private:
  void acquire(const std::filesystem::path& mark, const std::filesystem::path& own, int attempts);
  bool replace(const std::filesystem::path& mark, const std::string& dead,
               const std::filesystem::path& own);

  std::filesystem::path directory_;
  std::chrono::seconds silence_;
  std::string token_;     ///< makes temporary names and the identity unique
  std::string identity_;  ///< the whole text of the mark
  std::mutex beating_;
};

}  // namespace quern
