#include "pipeline/data/added_tokens.h"

#include <algorithm>

namespace quern {
namespace {

unsigned first_byte(const AddedToken& token) {
  return static_cast<unsigned char>(token.content.front());
}

bool is_word_character(const Pattern& word, std::string_view character) {
  PatternMatcher matcher(word);
  return matcher.pieces(character).front().is_match;
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::ranges::stable_sort(tokens_, [](const AddedToken& a, const AddedToken& b) {
    if (first_byte(a) != first_byte(b)) return first_byte(a) < first_byte(b);
    return a.content.size() > b.content.size();
  });
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    Span& range = by_first_byte_[first_byte(tokens_[i])];
    if (range.empty()) range.begin = i;
    range.end = i + 1;
  }
  if (std::ranges::any_of(tokens_, &AddedToken::single_word)) {
    word_ = Pattern::regex(R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}])");
  }
}

const AddedToken* AddedTokenFinder::token_at(std::string_view text, std::size_t position) const {
  const Span range = by_first_byte_[static_cast<unsigned char>(text[position])];
  const std::string_view rest = text.substr(position);
  for (std::size_t i = range.begin; i < range.end; ++i) {
    if (rest.starts_with(tokens_[i].content)) return &tokens_[i];
  }
  return nullptr;
}

bool AddedTokenFinder::touches_word(std::string_view text, Span found) const {
  if (found.begin > 0) {
    const std::string_view before = text.substr(0, found.begin);
    if (is_word_character(*word_, before.substr(last_character_begin(before)))) return true;
  }
  if (found.end == text.size()) return false;
  return is_word_character(*word_, text.substr(found.end, utf8_bytes(text[found.end])));
}

std::vector<AddedTokenPiece> AddedTokenFinder::pieces(std::string_view text) const {
  std::vector<AddedTokenPiece> pieces;
  std::size_t done = 0;
  for (std::size_t at = 0; !tokens_.empty() && at < text.size();) {
    const AddedToken* token = token_at(text, at);
    if (token == nullptr) {
      ++at;
      continue;
    }
    Span found{at, at + token->content.size()};
    at = found.end;
    if (token->single_word && touches_word(text, found)) continue;
    if (token->strip_left) {
      found.begin = std::max(done, found.begin - trailing_white_space(text.substr(0, found.begin)));
    }
    if (token->strip_right) found.end += leading_white_space(text.substr(found.end));
    if (found.begin > done) pieces.push_back({{done, found.begin}, std::nullopt});
    pieces.push_back({found, token->id});
    done = found.end;
  }
  if (done < text.size()) pieces.push_back({{done, text.size()}, std::nullopt});
  return pieces;
}

}  // namespace quern
