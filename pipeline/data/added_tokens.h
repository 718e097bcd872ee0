#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/data/pattern.h"

namespace quern {

/// A token that is found in the text before anything else is done with it.
struct AddedToken {
  std::string content;
  std::int32_t id = 0;
  bool special = false;
  bool normalized = false;   ///< found in the normalised text, not in the original one
  bool strip_left = false;   ///< takes white space before it along
  bool strip_right = false;  ///< and behind it
  bool single_word = false;  ///< only where no word character touches it
};

/// A stretch of text, or a token found in it.
struct AddedTokenPiece {
  Span span;
  std::optional<std::int32_t> id;
};

/// Finds added tokens: leftmost first, the longest where several start. Immutable.
class AddedTokenFinder {
 public:
  AddedTokenFinder() = default;
  /// `token.content` is what is looked for; the first of equal ones counts.
  explicit AddedTokenFinder(std::vector<AddedToken> tokens);

  /// Tokens and the stretches between them, in order; no stretch is empty.
  std::vector<AddedTokenPiece> pieces(std::string_view text) const;

 private:
  const AddedToken* token_at(std::string_view text, std::size_t position) const;
  bool touches_word(std::string_view text, Span found) const;

  std::vector<AddedToken> tokens_;  ///< by first byte, longest first
  std::array<Span, 256> by_first_byte_{};
  std::optional<Pattern> word_;  ///< one word character; only if some token is a single word
};

}  // namespace quern
