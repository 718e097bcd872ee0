#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "workers/files/commit_hook.h"

namespace quern {

/// One committed file of a run directory.
struct JournalEntry {
  std::string name;  ///< relative to the run directory, '/' separators, no blanks
  std::uint64_t bytes = 0;
  std::string hash;  ///< xxh3_hex of the contents
};

/// The append-only list of committed files: one text line each (name, length, hash, checksum of
/// the line). A line that is torn or fails its checksum ends the list; a later line for the same
/// name replaces the earlier one; a removal line takes a name out (set-aside of damaged files).
class Journal {
 public:
  explicit Journal(std::filesystem::path path, CommitHook hook = {});

  /// Reads what is there; an absent file is an empty journal. Throws StoreError if unreadable.
  std::map<std::string, JournalEntry> load() const;

  /// Appends and fsyncs, after cutting off a torn tail. One process at a time may append (rank 0).
  void append(const std::vector<JournalEntry>& entries);
  void append_removal(const std::string& name);

 private:
  void append_lines(const std::string& lines);

  std::filesystem::path path_;
  CommitHook hook_;
};

}  // namespace quern
