#include "workers/process_identity.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <system_error>

namespace quern {
namespace {

struct ProcessStat {
  char state = '?';
  std::uint64_t start_time = 0;
};

/// Fields 3 and 22 of /proc/<process>/stat; the name in field 2 may contain anything.
std::optional<ProcessStat> read_stat(int process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const std::size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream fields(text.substr(name_end + 1));
  ProcessStat stat;
  fields >> stat.state;
  std::string skipped;
  for (int field = 4; field < 22; ++field) fields >> skipped;
  fields >> stat.start_time;
  return fields ? std::optional(stat) : std::nullopt;
}

std::string host_name() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  return name.data();
}

std::string first_word_of(const char* path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

}  // namespace

ProcessIdentity this_process() {
  std::error_code ignored;
  const int process = static_cast<int>(getpid());
  return {.host = host_name(),
          .boot = first_word_of("/proc/sys/kernel/random/boot_id"),
          .pid_namespace = std::filesystem::read_symlink("/proc/self/ns/pid", ignored).string(),
          .process = process,
          .start_time = read_stat(process).value_or(ProcessStat{}).start_time};
}

bool shares_process_table(const ProcessIdentity& other) {
  const ProcessIdentity here = this_process();
  return !here.boot.empty() && other.host == here.host && other.boot == here.boot &&
         other.pid_namespace == here.pid_namespace;
}

bool is_running(const ProcessIdentity& other) {
  if (kill(other.process, 0) != 0 && errno == ESRCH) return false;
  const std::optional<ProcessStat> stat = read_stat(other.process);
  // Another user's process may be hidden: then it counts as the one.
  if (!stat) return true;
  return stat->start_time == other.start_time && stat->state != 'Z' && stat->state != 'X';
}

}  // namespace quern
