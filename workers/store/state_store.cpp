#include "workers/store/state_store.h"

#include <fmt/format.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "kernels/core/error.h"
#include "workers/files/atomic_file.h"
#include "workers/files/hash.h"
#include "workers/store/store_name.h"

namespace quern {
namespace {

constexpr const char* kJournalName = "journal";

/// Empty if there is no such file.
std::optional<std::uint64_t> length_of(const std::filesystem::path& path) {
  std::error_code problem;
  const std::uintmax_t bytes = std::filesystem::file_size(path, problem);
  if (!problem) return bytes;
  if (problem.value() == ENOENT || problem.value() == ENOTDIR) return std::nullopt;
  throw store_error("read the length of", path, problem.value());
}

std::string hash_of(const std::filesystem::path& path) {
  try {
    return xxh3_file(path);
  } catch (const InputError& error) {
    throw StoreError(fmt::format(
        "{}; if the device is damaged, move this file away and run again: it is made anew",
        error.what()));
  }
}

}  // namespace

StateStore::StateStore(std::filesystem::path directory, CommitHook hook)
    : directory_(std::move(directory)), hook_(hook), journal_(directory_ / kJournalName, hook) {
  std::error_code problem;
  if (!std::filesystem::is_directory(directory_, problem)) {
    throw store_error("open the run directory", directory_, problem ? problem.value() : ENOTDIR);
  }
  JournalContents contents = journal_.load();
  entries_ = std::move(contents.entries);
  ignored_journal_bytes_ = contents.ignored_bytes;
}

std::filesystem::path StateStore::path_of(const std::string& name) const {
  ensure(is_store_name(name) && name != kJournalName, "a name inside the run directory");
  return directory_ / name;
}

void StateStore::make_folder_of(const std::string& name) const {
  make_directories(path_of(name).parent_path(), hook_);
}

JournalEntry StateStore::write(const std::string& name, const Bundle& bundle) const {
  const std::filesystem::path path = path_of(name);
  make_folder_of(name);
  const WrittenFile written = write_bundle_file(path, bundle, hook_);
  return {name, written.bytes, written.hash};
}

JournalEntry StateStore::describe(const std::string& name) const {
  const std::filesystem::path path = path_of(name);
  const std::optional<std::uint64_t> bytes = length_of(path);
  if (!bytes) throw store_error("describe", path, ENOENT);
  return {name, *bytes, hash_of(path)};
}

void StateStore::acknowledge(const std::vector<JournalEntry>& entries) {
  journal_.append(entries);
  learn(entries);
}

void StateStore::learn(const std::vector<JournalEntry>& entries) {
  for (const JournalEntry& entry : entries) entries_.insert_or_assign(entry.name, entry);
}

bool StateStore::intact(const std::string& name) const {
  const auto entry = entries_.find(name);
  return entry != entries_.end() && intact(entry->second);
}

bool StateStore::intact(const JournalEntry& entry) const {
  const std::filesystem::path path = path_of(entry.name);
  return length_of(path) == entry.bytes && hash_of(path) == entry.hash;
}

std::optional<Bundle> StateStore::read(const std::string& name) const {
  const auto entry = entries_.find(name);
  return entry == entries_.end() ? std::nullopt : read(entry->second);
}

std::optional<Bundle> StateStore::read(const JournalEntry& entry) const {
  if (!intact(entry)) return std::nullopt;
  return read_bundle_file(path_of(entry.name));
}

std::optional<std::string> StateStore::read_attributes(const std::string& name) const {
  if (!intact(name)) return std::nullopt;
  return read_bundle_attributes(path_of(name));
}

std::filesystem::path StateStore::set_aside(const std::string& name) {
  ensure(contains(name), "an acknowledged name to set aside");
  const std::filesystem::path path = path_of(name);
  std::filesystem::path aside;
  // The file first: a kill in between leaves an entry without a file, which is set aside again.
  if (std::filesystem::exists(path)) {
    int number = 1;
    do {
      aside = fmt::format("{}.damaged-{}", path.string(), number++);
    } while (std::filesystem::exists(aside));
    rename_durably(path, aside, hook_);
  }
  journal_.append_removal(name);
  forget(name);
  return aside;
}

void StateStore::discard(const std::string& name) {
  ensure(contains(name), "an acknowledged name to discard");
  journal_.append_removal(name);
  forget(name);
  std::error_code left_behind;  // a file without an entry does not count and is written over
  std::filesystem::remove(path_of(name), left_behind);
}

void StateStore::forget(const std::string& name) {
  entries_.erase(name);
}

}  // namespace quern
