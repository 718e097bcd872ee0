#include "workers/store/run_holder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <random>
#include <span>
#include <system_error>
#include <utility>

#include "kernels/core/error.h"
#include "workers/files/atomic_file.h"
#include "workers/files/hash.h"
#include "workers/process_identity.h"

namespace quern {
namespace {

using Json = nlohmann::json;
using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr const char* kMarkName = "holder.json";
constexpr const char* kHeartbeatName = "heartbeat.json";
constexpr int kAttempts = 16;

std::string random_token() {
  std::random_device source;
  return fmt::format("{:08x}{:08x}", source(), source());
}

std::string hash_of(const std::string& text) {
  return xxh3_hex(std::as_bytes(std::span(text)));
}

std::filesystem::path with_suffix(const std::filesystem::path& path, const std::string& suffix) {
  return path.string() + suffix;
}

/// Removes a name of this process's own, if it is still there, at the end of the scope.
struct OwnedName {
  const std::filesystem::path& path;
  ~OwnedName() { ::unlink(path.c_str()); }
};

std::string mark_text(const std::string& token) {
  const ProcessIdentity self = this_process();
  return Json{{"host", self.host},
              {"process", self.process},
              {"start_time", self.start_time},
              {"boot", self.boot},
              {"pid_namespace", self.pid_namespace},
              {"token", token}}
      .dump(1);
}

/// The holder a mark names; process 0 if the text is not one of a mark.
ProcessIdentity parse_mark(const std::string& text) {
  try {
    const Json mark = Json::parse(text);
    return {.host = mark.at("host").get<std::string>(),
            .boot = mark.at("boot").get<std::string>(),
            .pid_namespace = mark.at("pid_namespace").get<std::string>(),
            .process = mark.at("process").get<int>(),
            .start_time = mark.at("start_time").get<std::uint64_t>()};
  } catch (const Json::exception&) {
    return {.host = "unknown", .boot = {}, .pid_namespace = {}, .process = 0, .start_time = 0};
  }
}

/// Empty if the file is not there.
std::optional<std::string> read_if_present(const std::filesystem::path& path) {
  std::error_code problem;
  if (!std::filesystem::exists(path, problem) && !problem) return std::nullopt;
  try {
    return read_text_file(path);
  } catch (const InputError& error) {
    if (!std::filesystem::exists(path, problem) && !problem) return std::nullopt;
    throw StoreError(error.what());
  }
}

/// When the file was written. Opens it, because NFS may answer a mere stat from an old cache.
std::optional<nanoseconds> written_at(const std::filesystem::path& path) {
  const Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (!descriptor || fstat(descriptor.get(), &status) != 0) return std::nullopt;
  return seconds(status.st_mtim.tv_sec) + nanoseconds(status.st_mtim.tv_nsec);
}

/// The time by the clock that stamps this directory's files: hosts may disagree about it.
nanoseconds file_system_now(const std::filesystem::path& directory) {
  const std::filesystem::path probe = directory / fmt::format(".probe-{}", random_token());
  const Descriptor descriptor(::open(probe.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  struct stat status {};
  const bool stamped =
      descriptor && ::write(descriptor.get(), "x", 1) == 1 && fstat(descriptor.get(), &status) == 0;
  if (descriptor) ::unlink(probe.c_str());
  if (!stamped) return std::chrono::system_clock::now().time_since_epoch();
  return seconds(status.st_mtim.tv_sec) + nanoseconds(status.st_mtim.tv_nsec);
}

struct Heartbeat {
  std::string activity;
  seconds age{0};
};

/// The last sign of life of the mark's owner: its heartbeat file, or else the mark itself.
Heartbeat last_heartbeat(const std::filesystem::path& mark, const std::string& text) {
  const std::filesystem::path directory = mark.parent_path();
  Heartbeat heartbeat;
  std::optional<nanoseconds> written = written_at(mark);
  const std::filesystem::path path = directory / kHeartbeatName;
  const std::optional<nanoseconds> beaten = written_at(path);
  const Json beat = Json::parse(read_if_present(path).value_or(""), nullptr, false);
  if (beat.is_object() && beat.value("mark", Json()) == hash_of(text)) {
    written = std::max(written, beaten);
    const Json activity = beat.value("activity", Json());
    if (activity.is_string()) heartbeat.activity = activity.get<std::string>();
  }
  const nanoseconds now = file_system_now(directory);
  heartbeat.age = std::chrono::duration_cast<seconds>(now - written.value_or(now));
  heartbeat.age = std::max(heartbeat.age, seconds(0));
  return heartbeat;
}

HolderState judge(const std::filesystem::path& mark, const std::string& text, seconds silence) {
  const ProcessIdentity holder = parse_mark(text);
  const Heartbeat heartbeat = last_heartbeat(mark, text);
  const bool alive = holder.process > 0 && shares_process_table(holder) ? is_running(holder)
                                                                        : heartbeat.age < silence;
  return {holder.host, holder.process, heartbeat.activity, heartbeat.age, alive};
}

ConfigError in_use(const std::filesystem::path& directory, const HolderState& holder,
                   seconds silence) {
  return ConfigError(fmt::format(
      "directory {} is in use by process {} on host {} (heartbeat {} s ago{}{}): wait for it, "
      "stop it, or choose another directory; a job that died on another host is recognised "
      "after {} s of silence",
      directory.string(), holder.process, holder.host, holder.heartbeat_age.count(),
      holder.activity.empty() ? "" : ": ", holder.activity, silence.count()));
}

}  // namespace

RunHolder::RunHolder(std::filesystem::path directory, std::chrono::seconds silence)
    : directory_(std::move(directory)),
      silence_(silence),
      token_(random_token()),
      identity_(mark_text(token_)) {
  const std::filesystem::path mark = directory_ / kMarkName;
  const std::filesystem::path own = with_suffix(mark, "." + token_);
  {
    const OwnedName own_owner{own};
    write_text_file(own, identity_);
    acquire(mark, own, kAttempts);
  }
  beat("starting");
}

RunHolder::~RunHolder() {
  try {
    const std::filesystem::path heartbeat = directory_ / kHeartbeatName;
    ::unlink(with_suffix(heartbeat, "." + token_).c_str());  // of a beat that failed
    const std::filesystem::path mark = directory_ / kMarkName;
    if (read_if_present(mark) != identity_) return;
    ::unlink(heartbeat.c_str());
    ::unlink(mark.c_str());
  } catch (...) {  // the mark stays; it is seen to be a dead holder's
  }
}

void RunHolder::acquire(const std::filesystem::path& mark, const std::filesystem::path& own,
                        int attempts) {
  for (; attempts > 0; --attempts) {
    if (::link(own.c_str(), mark.c_str()) == 0) return;
    const int error = errno;
    const std::optional<std::string> seen = read_if_present(mark);
    if (seen == identity_) return;  // a file server may repeat a link it has made, and fail then
    if (error != EEXIST) throw store_error("make the mark", mark, error);
    if (!seen) continue;  // its owner has just left
    const HolderState holder = judge(mark, *seen, silence_);
    if (holder.alive) throw in_use(directory_, holder, silence_);
    // Only the owner of the lock named after the dead mark may replace that mark; the lock is a
    // mark itself, so that of a dead owner is taken over in the same way.
    const std::filesystem::path lock = with_suffix(mark, ".over-" + hash_of(*seen));
    acquire(lock, own, attempts - 1);
    const OwnedName lock_owner{lock};
    if (replace(mark, *seen, own)) return;
  }
  throw StoreError(
      fmt::format("{}: cannot be made or read; remove it and run again", mark.string()));
}

bool RunHolder::replace(const std::filesystem::path& mark, const std::string& dead,
                        const std::filesystem::path& own) {
  if (read_if_present(mark) != dead) return false;
  const std::filesystem::path second = with_suffix(own, ".second");
  const OwnedName second_owner{second};
  if (::link(own.c_str(), second.c_str()) != 0) throw store_error("make the mark", second, errno);
  if (std::rename(second.c_str(), mark.c_str()) != 0) {
    throw store_error("replace the mark", mark, errno);
  }
  return true;
}

void RunHolder::beat(const std::string& activity) noexcept {
  try {
    const std::lock_guard lock(beating_);
    const Json heartbeat{{"mark", hash_of(identity_)}, {"activity", activity}};
    const std::filesystem::path path = directory_ / kHeartbeatName;
    const std::filesystem::path temporary = with_suffix(path, "." + token_);
    DurableFile file(temporary, DurableFile::Contents::discard);
    const std::string text = heartbeat.dump(1, ' ', false, Json::error_handler_t::replace);
    file.write(std::as_bytes(std::span(text)));
    file.close();  // no fsync: after a power cut nobody is alive
    std::filesystem::rename(temporary, path);
  } catch (...) {  // a missed beat is no reason to stop
  }
}

bool RunHolder::taken_over() const noexcept {
  try {
    const std::optional<std::string> mark = read_if_present(directory_ / kMarkName);
    return mark && *mark != identity_;
  } catch (...) {
    return false;
  }
}

std::optional<HolderState> RunHolder::inspect(const std::filesystem::path& directory,
                                              std::chrono::seconds silence) {
  const std::filesystem::path mark = directory / kMarkName;
  const std::optional<std::string> text = read_if_present(mark);
  if (!text) return std::nullopt;
  return judge(mark, *text, silence);
}

}  // namespace quern
