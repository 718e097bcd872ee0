#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace quern {

/// A document as it lies in its file: a whole text file, or one line of JSON.
struct RawDocument {
  std::string bytes;
  std::string origin;  ///< file, or file:line
  bool is_json = false;
};

/// Yields the documents of several files in order. `.txt` is one document; `.jsonl` and `.json`
/// hold one JSON object per line, `.gz` behind them is unpacked on the way. Blank lines are passed
/// over.
class RawDocuments {
 public:
  /// Of a text file only the first `text_characters` characters are read; 0: all.
  RawDocuments(std::vector<std::filesystem::path> sources, std::int64_t text_characters);
  ~RawDocuments();
  RawDocuments(const RawDocuments&) = delete;             // owns an open file
  RawDocuments& operator=(const RawDocuments&) = delete;  // likewise

  /// False at the end. Throws InputError for a file that cannot be read, has another ending, or is
  /// a damaged gzip.
  bool next(RawDocument& document);

 private:
  class Lines;
  std::vector<std::filesystem::path> sources_;
  std::int64_t text_characters_;
  std::size_t next_source_ = 0;
  std::unique_ptr<Lines> lines_;
};

/// The text: `field` of a JSON line. Throws InputError with file and line if it is absent, is no
/// string, or the bytes are not valid UTF-8.
std::string document_text(RawDocument document, const std::string& field);

}  // namespace quern
