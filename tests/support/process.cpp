#include "tests/support/process.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

namespace quern::test {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(2);

/// Everything written to a captured stream.
std::string contents_of(int descriptor) {
  std::string text;
  std::array<char, 65536> block{};
  for (;;) {
    const ssize_t count =
        pread(descriptor, block.data(), block.size(), static_cast<off_t>(text.size()));
    if (count <= 0) return text;
    text.append(block.data(), static_cast<std::size_t>(count));
  }
}

int captured_stream(const char* name) {
  const int descriptor = memfd_create(name, MFD_CLOEXEC);
  if (descriptor < 0) throw std::runtime_error("memfd_create failed");
  return descriptor;
}

[[noreturn]] void become(std::vector<char*>& words, int out, int err) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  execvp(words.front(), words.data());
  _exit(127);
}

/// State and parent, fields 3 and 4 of /proc/<process>/stat; the name in field 2 may be anything.
struct ProcessStat {
  char state = '?';
  int parent = 0;
};

ProcessStat stat_of(int process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const std::size_t name_end = text.rfind(')');
  ProcessStat stat;
  if (name_end == std::string::npos) return stat;
  std::istringstream fields(text.substr(name_end + 1));
  fields >> stat.state >> stat.parent;
  return stat;
}

/// Gone, or waiting for its parent to take note.
bool is_dead(int process) {
  const char state = stat_of(process).state;
  return state == '?' || state == 'Z' || state == 'X';
}

std::vector<int> all_processes() {
  std::vector<int> processes;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename().string();
    int process = 0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), process);
    if (parsed.ec == std::errc() && parsed.ptr == name.data() + name.size()) {
      processes.push_back(process);
    }
  }
  return processes;
}

}  // namespace

Command operator+(Command first, const Command& more) {
  first.insert(first.end(), more.begin(), more.end());
  return first;
}

Process::Process(const Command& command)
    : out_(captured_stream("out")), err_(captured_stream("err")) {
  Command copy = command;
  std::vector<char*> words;
  for (std::string& word : copy) words.push_back(word.data());
  words.push_back(nullptr);
  id_ = fork();
  if (id_ < 0) throw std::runtime_error("fork failed");
  if (id_ == 0) become(words, out_, err_);
}

Process::~Process() {
  if (!has_ended()) {
    kill_all();
    waitpid(id_, &status_, 0);
  }
  close(out_);
  close(err_);
}

void Process::send(int signal) const {
  kill(id_, signal);
}

void Process::kill_all() const {
  // Stopped first, so that it starts nothing more and cannot react to the death of a rank.
  kill(id_, SIGSTOP);
  wait_until([this] { return stat_of(id_).state != 'R' && stat_of(id_).state != 'S'; });
  std::vector<int> processes = descendants(id_);
  processes.push_back(id_);
  for (const int process : processes) kill(process, SIGKILL);
  wait_until([&] { return std::ranges::all_of(processes, is_dead); });
}

bool Process::has_ended() {
  if (!ended_) ended_ = waitpid(id_, &status_, WNOHANG) == id_;
  return ended_;
}

ProcessResult Process::wait(std::chrono::seconds limit) {
  ProcessResult result;
  if (!wait_until([this] { return has_ended(); }, limit)) {
    result.timed_out = true;
    kill_all();
    wait_until([this] { return has_ended(); });
  }
  if (WIFEXITED(status_)) result.exit_code = WEXITSTATUS(status_);
  if (WIFSIGNALED(status_)) result.signal = WTERMSIG(status_);
  result.out = contents_of(out_);
  result.err = contents_of(err_);
  return result;
}

std::string Process::err() const {
  return contents_of(err_);
}

ProcessResult run_process(const Command& command, std::chrono::seconds limit) {
  return Process(command).wait(limit);
}

std::vector<int> descendants(int process) {
  std::vector<int> found;
  for (const int candidate : all_processes()) {
    const int parent = stat_of(candidate).parent;
    if (parent == process) found.push_back(candidate);
  }
  const std::vector<int> children = found;
  for (const int child : children) {
    const std::vector<int> below = descendants(child);
    found.insert(found.end(), below.begin(), below.end());
  }
  return found;
}

std::vector<int> processes_with(const std::string& text) {
  std::vector<int> found = all_processes();
  std::erase_if(found, [&](int process) {
    std::ifstream file("/proc/" + std::to_string(process) + "/cmdline");
    const std::string line{std::istreambuf_iterator<char>(file), {}};
    return line.find(text) == std::string::npos;
  });
  return found;
}

std::filesystem::path program_of(int process) {
  std::error_code gone;
  return std::filesystem::read_symlink("/proc/" + std::to_string(process) + "/exe", gone);
}

bool is_stopped(int process) {
  return stat_of(process).state == 'T';
}

bool is_pending(int process, int signal) {
  std::ifstream file("/proc/" + std::to_string(process) + "/status");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("ShdPnd:") && !line.starts_with("SigPnd:")) continue;
    const std::uint64_t mask = std::strtoull(line.c_str() + 7, nullptr, 16);
    if ((mask >> (signal - 1) & 1) != 0) return true;
  }
  return false;
}

bool wait_until(const std::function<bool()>& condition, std::chrono::seconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(kPoll);
  }
  return true;
}

}  // namespace quern::test
