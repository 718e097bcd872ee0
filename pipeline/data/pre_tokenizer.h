#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "pipeline/data/pattern.h"

namespace quern {

/// What becomes of the matches when a text is cut at them.
enum class SplitBehavior : std::uint8_t {
  removed,
  isolated,
  merged_with_previous,
  merged_with_next,
  contiguous,
};

/// The steps a "pre_tokenizer" of tokenizer.json is made of. ByteLevel is WordPrefix, SplitWords
/// and WordBytes; Metaspace is ReplaceInWords, WordPrefix and SplitWords.
struct SplitWords {
  Pattern pattern;
  SplitBehavior behavior = SplitBehavior::isolated;
  bool invert = false;  ///< what lies between the matches counts as match
};
struct WordPrefix {
  std::string text;         ///< put before each word that does not start with it ...
  bool text_start = false;  ///< ... or only before the word at the start of the whole text
};
struct ReplaceInWords {
  Pattern pattern;
  std::string content;
};
struct WordBytes {};  ///< each byte becomes the printable character GPT-2 gave it

using PreTokenizerStep = std::variant<SplitWords, WordPrefix, ReplaceInWords, WordBytes>;

/// A text and the words it is cut into, in order, none empty.
struct Words {
  std::string text;
  std::vector<Span> spans;
  bool at_text_start = false;  ///< the first word starts the whole text
};

/// Cuts normalised text into the words that merging never crosses. Immutable.
class PreTokenizer {
 public:
  PreTokenizer() = default;
  explicit PreTokenizer(std::vector<PreTokenizerStep> steps) : steps_(std::move(steps)) {}

  Words apply(std::string text, bool at_text_start) const;

 private:
  std::vector<PreTokenizerStep> steps_;
};

}  // namespace quern
