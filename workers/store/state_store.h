#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "workers/files/commit_hook.h"
#include "workers/store/bundle_file.h"
#include "workers/store/journal.h"

namespace quern {

/// The durable state of a run: immutable files plus the journal that says which exist. Any rank
/// writes and reads them; only rank 0 calls acknowledge() and set_aside(), and the caller
/// broadcasts what it learns. No name contains a rank. A name that is not is_store_name() (it could
/// leave the directory) is an InternalError everywhere.
class StateStore {
 public:
  /// Loads the journal. The directory must exist.
  explicit StateStore(std::filesystem::path directory, CommitHook hook = {});

  const std::filesystem::path& directory() const noexcept { return directory_; }

  /// Names acknowledged when the store was opened or since, by this process.
  bool contains(const std::string& name) const { return entries_.contains(name); }
  const std::map<std::string, JournalEntry>& entries() const noexcept { return entries_; }
  /// Bytes of the journal that did not count when it was loaded: after a kill part of a line;
  /// more means damage, and a warning is due.
  std::uint64_t ignored_journal_bytes() const noexcept { return ignored_journal_bytes_; }

  /// Makes the folder that `name` lies in, durably: before several threads write into it.
  void make_folder_of(const std::string& name) const;
  /// Writes the bundle durably under `name` (".h5" file, parents made); not yet acknowledged.
  /// The name must not be acknowledged. Uses no state that changes: other threads may call it.
  JournalEntry write(const std::string& name, const Bundle& bundle) const;
  /// The entry of a durable file that was written by other means (an exported shard): reads it.
  JournalEntry describe(const std::string& name) const;

  /// Adds entries of files that are durable to the journal, in the order given. Rank 0 only.
  void acknowledge(const std::vector<JournalEntry>& entries);
  /// Takes over entries that rank 0 has acknowledged. Other ranks.
  void learn(const std::vector<JournalEntry>& entries);

  /// Length and hash of the file against its journal entry, before anything parses it. False if it
  /// is not acknowledged, absent or different; StoreError if it is there and cannot be read.
  bool intact(const std::string& name) const;
  /// The bundle, after intact(); empty if it is not acknowledged or damaged.
  std::optional<Bundle> read(const std::string& name) const;
  /// Its attributes alone; other threads may call it while none changes the store.
  std::optional<std::string> read_attributes(const std::string& name) const;
  /// The bundle of a file with this entry, as acknowledged before. Uses no state that changes:
  /// other threads may call it.
  std::optional<Bundle> read(const JournalEntry& entry) const;

  /// Renames a damaged file (if it is there) to "<name>.damaged-<n>", n the first free number from
  /// 1, and removes it from the journal. Returns the new path, empty if there was no file.
  /// Rank 0 only; the name must be acknowledged.
  std::filesystem::path set_aside(const std::string& name);
  /// Takes a file that is no longer needed out of the journal and removes it. Rank 0 only; the name
  /// must be acknowledged.
  void discard(const std::string& name);
  /// What set_aside() and discard() are on other ranks: forgets the entry.
  void forget(const std::string& name);

 private:
  bool intact(const JournalEntry& entry) const;
  std::filesystem::path path_of(const std::string& name) const;

  std::filesystem::path directory_;
  CommitHook hook_;
  Journal journal_;
  std::map<std::string, JournalEntry> entries_;
  std::uint64_t ignored_journal_bytes_ = 0;
};

}  // namespace quern
