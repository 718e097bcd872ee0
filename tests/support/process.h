#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace quern::test {

/// A program and its arguments; the first word is searched in PATH.
using Command = std::vector<std::string>;

/// `first` followed by `more`.
Command operator+(Command first, const Command& more);

struct ProcessResult {
  int exit_code = -1;      ///< -1 if a signal ended it
  int signal = 0;          ///< that ended it; 0 if it ended by itself
  bool timed_out = false;  ///< killed at the time limit
  std::string out;
  std::string err;
};

/// A running program with captured standard streams. The destructor kills what is left of it,
/// descendants included: the ranks of an mpirun live in process groups of their own.
class Process {
 public:
  explicit Process(const Command& command);
  ~Process();
  Process(const Process&) = delete;             // owns a child
  Process& operator=(const Process&) = delete;  // likewise

  int id() const noexcept { return id_; }
  void send(int signal) const;
  /// SIGKILL to the program and all its descendants, at one moment as far as they can tell.
  /// Returns when they are dead.
  void kill_all() const;
  bool has_ended();
  /// Waits for the end; kills everything at the limit.
  ProcessResult wait(std::chrono::seconds limit = std::chrono::seconds(300));
  /// What it has written to standard error so far.
  std::string err() const;

 private:
  int id_ = -1;
  int out_ = -1;
  int err_ = -1;
  int status_ = 0;
  bool ended_ = false;
};

/// Starts a program and waits for its end.
ProcessResult run_process(const Command& command,
                          std::chrono::seconds limit = std::chrono::seconds(300));

/// Processes below `process`, without itself.
std::vector<int> descendants(int process);
/// Living processes with this text in their command lines.
std::vector<int> processes_with(const std::string& text);
/// The file that the process runs; empty if there is no such process.
std::filesystem::path program_of(int process);
/// True if a signal such as SIGSTOP holds the process.
bool is_stopped(int process);
/// True if the signal has been sent to a process that has not yet taken it.
bool is_pending(int process, int signal);

/// Polls until the condition holds; false if it does not within the limit.
bool wait_until(const std::function<bool()>& condition,
                std::chrono::seconds limit = std::chrono::seconds(60));

}  // namespace quern::test
