#include "pipeline/data/pre_tokenizer.h"

#include <algorithm>

#include "pipeline/data/normalizer.h"

namespace quern {
namespace {

struct Cut {
  Span span;
  bool removed = false;
};

std::vector<Cut> merge_contiguous(const std::vector<PatternPiece>& pieces) {
  std::vector<Cut> cuts;
  bool previous = false;
  for (const auto& [span, is_match] : pieces) {
    if (is_match == previous && !cuts.empty()) {
      cuts.back().span.end = span.end;
    } else {
      cuts.push_back({span});
    }
    previous = is_match;
  }
  return cuts;
}

std::vector<Cut> merge_with_previous(const std::vector<PatternPiece>& pieces) {
  std::vector<Cut> cuts;
  bool previous = false;
  for (const auto& [span, is_match] : pieces) {
    if (is_match && !previous && !cuts.empty()) {
      cuts.back().span.end = span.end;
    } else {
      cuts.push_back({span});
    }
    previous = is_match;
  }
  return cuts;
}

std::vector<Cut> merge_with_next(const std::vector<PatternPiece>& pieces) {
  std::vector<Cut> cuts;
  bool previous = false;
  for (auto piece = pieces.rbegin(); piece != pieces.rend(); ++piece) {
    if (piece->is_match && !previous && !cuts.empty()) {
      cuts.back().span.begin = piece->span.begin;
    } else {
      cuts.push_back({piece->span});
    }
    previous = piece->is_match;
  }
  std::ranges::reverse(cuts);
  return cuts;
}

std::vector<Cut> cuts_of(const std::vector<PatternPiece>& pieces, SplitBehavior behavior) {
  switch (behavior) {
    case SplitBehavior::contiguous:
      return merge_contiguous(pieces);
    case SplitBehavior::merged_with_previous:
      return merge_with_previous(pieces);
    case SplitBehavior::merged_with_next:
      return merge_with_next(pieces);
    case SplitBehavior::removed:
    case SplitBehavior::isolated:
      break;
  }
  std::vector<Cut> cuts;
  cuts.reserve(pieces.size());
  const bool removes = behavior == SplitBehavior::removed;
  for (const auto& [span, is_match] : pieces) cuts.push_back({span, removes && is_match});
  return cuts;
}

void run(const SplitWords& step, Words& words) {
  PatternMatcher matcher(step.pattern);
  std::vector<Span> spans;
  spans.reserve(words.spans.size());
  std::vector<PatternPiece> pieces;
  for (const Span& word : words.spans) {
    pieces = matcher.pieces(word.of(words.text));
    if (step.invert) {
      for (PatternPiece& piece : pieces) piece.is_match = !piece.is_match;
    }
    for (const auto& [span, removed] : cuts_of(pieces, step.behavior)) {
      if (!removed && !span.empty())
        spans.push_back({word.begin + span.begin, word.begin + span.end});
    }
  }
  const bool first_stays = !spans.empty() && spans.front().begin == 0;
  words.at_text_start = words.at_text_start && first_stays;
  words.spans = std::move(spans);
}

/// Rewrites every word by `rewrite(word, index)`.
template <typename Rewrite>
void rewrite_words(Words& words, const Rewrite& rewrite) {
  std::string text;
  text.reserve(words.text.size() + words.text.size() / 4);
  std::vector<Span> spans;
  spans.reserve(words.spans.size());
  for (std::size_t i = 0; i < words.spans.size(); ++i) {
    const std::size_t begin = text.size();
    rewrite(words.spans[i].of(words.text), i, text);
    if (text.size() > begin) spans.push_back({begin, text.size()});
  }
  words.text = std::move(text);
  words.spans = std::move(spans);
}

void run(const WordPrefix& step, Words& words) {
  rewrite_words(words, [&](std::string_view word, std::size_t index, std::string& out) {
    const bool wanted = !step.text_start || (index == 0 && words.at_text_start);
    if (wanted && !word.starts_with(step.text)) out += step.text;
    out += word;
  });
}

void run(const ReplaceInWords& step, Words& words) {
  PatternMatcher matcher(step.pattern);
  rewrite_words(words, [&](std::string_view word, std::size_t, std::string& out) {
    for (const auto& [span, is_match] : matcher.pieces(word)) {
      out += is_match ? std::string_view(step.content) : span.of(word);
    }
  });
}

void run(const WordBytes&, Words& words) {
  rewrite_words(words, [](std::string_view word, std::size_t, std::string& out) {
    out += bytes_to_characters(word);
  });
}

}  // namespace

Words PreTokenizer::apply(std::string text, bool at_text_start) const {
  Words words{std::move(text), {}, at_text_start};
  if (words.text.empty()) return words;
  words.spans.push_back({0, words.text.size()});
  for (const PreTokenizerStep& step : steps_) {
    std::visit([&](const auto& one) { run(one, words); }, step);
  }
  return words;
}

}  // namespace quern
