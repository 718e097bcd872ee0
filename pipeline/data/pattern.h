#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/data/utf8.h"

namespace quern {

/// A regular expression of a tokenizer file. Such files are written for Oniguruma; the expression
/// is translated to PCRE2 (see pattern_syntax.h) and compiled with its JIT. Character properties
/// are those of PCRE2's Unicode tables. Immutable, copies share the compiled form.
class Pattern {
 public:
  /// Throws InputError without a place; the caller adds it.
  static Pattern regex(std::string_view oniguruma);
  /// Matches exactly this text, which must not be empty.
  static Pattern literal(std::string_view text);

 private:
  friend class PatternMatcher;
  struct Compiled;
  explicit Pattern(std::shared_ptr<const Compiled> compiled) : compiled_(std::move(compiled)) {}

  std::shared_ptr<const Compiled> compiled_;
};

/// A piece of a text, cut where a pattern matches.
struct PatternPiece {
  Span span;
  bool is_match = false;
};

/// The scratch memory for matching one pattern; one per thread and use.
class PatternMatcher {
 public:
  explicit PatternMatcher(const Pattern& pattern);
  ~PatternMatcher();
  PatternMatcher(const PatternMatcher&) = delete;             // owns scratch memory
  PatternMatcher& operator=(const PatternMatcher&) = delete;  // likewise

  /// Cuts valid UTF-8 into matches and what lies between them, leftmost first; spans count from
  /// the start of `text`. An empty match right behind the previous match is passed over.
  /// The result is valid until the next call. Throws InputError if the expression takes too long.
  const std::vector<PatternPiece>& pieces(std::string_view text);

 private:
  struct Scratch;
  bool search(std::string_view text, std::size_t from, Span& found);

  std::shared_ptr<const Pattern::Compiled> compiled_;
  std::unique_ptr<Scratch> scratch_;
  std::vector<PatternPiece> pieces_;
};

}  // namespace quern
