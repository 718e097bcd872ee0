#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "pipeline/config/run_config.h"
#include "pipeline/data/documents.h"

namespace quern {

/// The documents of a text configuration as valid UTF-8, in order. Files are streamed: what is not
/// asked for is not read. max_characters counts over all documents joined by kDocumentSeparator.
class Documents {
 public:
  explicit Documents(const TextConfig& config);

  /// False at the end. Throws as RawDocuments::next and document_text.
  bool next(std::string& text);

 private:
  RawDocuments raw_;
  std::string field_;
  bool limited_;
  std::int64_t characters_left_;
  bool first_ = true;
};

/// What stands between two documents of a joined text.
inline constexpr std::string_view kDocumentSeparator = "\n\n";

}  // namespace quern
