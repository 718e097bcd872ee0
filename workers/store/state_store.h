#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "workers/files/commit_hook.h"
#include "workers/store/bundle_file.h"
#include "workers/store/journal.h"

namespace quern {

/// The durable state of a run: immutable bundle files plus the journal that says which exist.
/// Any rank writes and reads bundles; only rank 0 calls acknowledge() and set_aside(), and the
/// caller broadcasts what it learns. No name contains a rank.
class StateStore {
 public:
  /// Loads the journal. The directory must exist.
  explicit StateStore(std::filesystem::path directory, CommitHook hook = {});

  const std::filesystem::path& directory() const noexcept { return directory_; }

  /// Names acknowledged when the store was opened or since, by this process.
  bool contains(const std::string& name) const { return entries_.contains(name); }
  const std::map<std::string, JournalEntry>& entries() const noexcept { return entries_; }

  /// Writes the bundle durably under `name` (".h5" file, parents made); not yet acknowledged.
  JournalEntry write(const std::string& name, const Bundle& bundle);

  /// Adds entries of files that are durable to the journal, in the order given. Rank 0 only.
  void acknowledge(const std::vector<JournalEntry>& entries);
  /// Takes over entries that rank 0 has acknowledged. Other ranks.
  void learn(const std::vector<JournalEntry>& entries);

  /// Length and hash of the file against its journal entry, before anything parses it.
  bool intact(const std::string& name) const;
  /// The bundle, after intact(); empty if it is not acknowledged or damaged.
  std::optional<Bundle> read(const std::string& name) const;

  /// Renames a damaged file to "<name>.damaged-<n>" and removes it from the journal. Rank 0 only.
  void set_aside(const std::string& name);
  /// The same on other ranks: forgets the entry.
  void forget(const std::string& name);

 private:
  std::filesystem::path directory_;
  CommitHook hook_;
  Journal journal_;
  std::map<std::string, JournalEntry> entries_;
};

}  // namespace quern
