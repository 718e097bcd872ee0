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
  std::string name;  ///< relative to the run directory, as in is_store_name()
  std::uint64_t bytes = 0;
  std::string hash;  ///< xxh3_hex of the contents

  bool operator==(const JournalEntry&) const = default;
};

/// What a journal says.
struct JournalContents {
  std::map<std::string, JournalEntry> entries;
  std::uint64_t valid_bytes = 0;    ///< length of the lines that count
  std::uint64_t ignored_bytes = 0;  ///< behind them: torn or damaged, cut off by the next append
};

/// The append-only list of committed files, one text line each:
///   <name> <bytes> <hash> <checksum>     the file is whole
///   - <name> <checksum>                  it no longer counts (set-aside of damaged files)
/// The checksum is xxh3_hex of the line before its last blank. A later line for a name replaces the
/// earlier one. A line that is torn or fails its checksum ends the list, wherever it stands: what
/// follows is done again, so damage costs time and never makes a wrong model.
class Journal {
 public:
  explicit Journal(std::filesystem::path path, CommitHook hook = {});

  /// Reads what is there; an absent file is an empty journal. Throws StoreError if unreadable.
  JournalContents load() const;

  /// Appends in one write and fsyncs, after cutting off a torn tail. Of a batch that is torn, the
  /// whole lines count. One process at a time may append (rank 0).
  void append(const std::vector<JournalEntry>& entries);
  void append_removal(const std::string& name);

 private:
  void append_lines(const std::string& lines);

  std::filesystem::path path_;
  CommitHook hook_;
};

}  // namespace quern
