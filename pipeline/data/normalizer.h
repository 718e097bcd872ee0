#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "pipeline/data/pattern.h"

namespace quern {

/// The steps a "normalizer" of tokenizer.json is made of, in the order they run.
struct PrependText {
  std::string text;  ///< put before a text that is not empty
};
struct ReplaceMatches {
  Pattern pattern;
  std::string content;  ///< taken as it stands
};
struct UnicodeForm {
  bool compose = false;
  bool compatibility = false;  ///< NFC, NFD; with it NFKC, NFKD
};
struct LowerCase {};
struct StripWhiteSpace {
  bool left = false;
  bool right = false;
};
struct BytesToCharacters {};  ///< each byte becomes the printable character GPT-2 gave it

using NormalizerStep = std::variant<PrependText, ReplaceMatches, UnicodeForm, LowerCase,
                                    StripWhiteSpace, BytesToCharacters>;

/// Rewrites text before it is cut into words. Immutable.
class Normalizer {
 public:
  Normalizer() = default;
  explicit Normalizer(std::vector<NormalizerStep> steps) : steps_(std::move(steps)) {}

  bool empty() const noexcept { return steps_.empty(); }
  /// Expects valid UTF-8.
  std::string apply(std::string text) const;

 private:
  std::vector<NormalizerStep> steps_;
};

/// `text` with each byte written as GPT-2's printable character.
std::string bytes_to_characters(std::string_view text);

/// `text` with each match replaced.
std::string replace_matches(std::string_view text, const Pattern& pattern,
                            std::string_view content);

}  // namespace quern
