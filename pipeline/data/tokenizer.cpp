#include "pipeline/data/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/core/error.h"
#include "pipeline/data/tokenizer_files.h"

namespace quern {
namespace {

/// The tokens to be found before or after normalisation, special ones first.
AddedTokenFinder make_finder(const std::vector<AddedToken>& added, bool normalized,
                             const Normalizer& normalizer) {
  std::vector<AddedToken> tokens;
  for (const AddedToken& token : added) {
    if (token.normalized != normalized) continue;
    tokens.push_back(token);
    if (!normalized) continue;
    tokens.back().content = normalizer.apply(token.content);
    if (tokens.back().content.empty()) {
      throw InputError(
          fmt::format("the normaliser leaves nothing of the added token \"{}\"", token.content));
    }
  }
  std::ranges::stable_partition(tokens, &AddedToken::special);
  return AddedTokenFinder(std::move(tokens));
}

}  // namespace

Tokenizer::Tokenizer(TokenizerParts parts)
    : normalizer_(std::move(parts.normalizer)),
      pre_tokenizer_(std::move(parts.pre_tokenizer)),
      post_processor_(std::move(parts.post_processor)),
      bpe_(std::move(parts.model)),
      added_(std::move(parts.added)),
      raw_finder_(make_finder(added_, false, normalizer_)),
      normalized_finder_(make_finder(added_, true, normalizer_)),
      bos_(parts.bos),
      vocab_size_(bpe_.vocabulary().id_bound()) {
  for (const AddedToken& token : added_) {
    vocab_size_ = std::max<std::int64_t>(vocab_size_, token.id + 1);
  }
  for (const auto* side : {&post_processor_.before, &post_processor_.behind}) {
    for (const std::int32_t id : *side) {
      if (token(id).empty()) {
        throw InputError(fmt::format("the post-processor adds the id {}, which has no token", id));
      }
    }
  }
}

bool Tokenizer::adds_bos() const noexcept {
  const auto& before = post_processor_.before;
  return bos_ && !before.empty() && before.front() == *bos_;
}

std::string_view Tokenizer::token(std::int32_t id) const {
  const std::string_view known = bpe_.vocabulary().token(id);
  if (!known.empty()) return known;
  const auto added = std::ranges::find(added_, id, &AddedToken::id);
  return added == added_.end() ? std::string_view() : std::string_view(added->content);
}

void Tokenizer::encode_plain(std::string_view text, bool at_text_start, Bpe::Scratch& scratch,
                             std::vector<std::int32_t>& ids) const {
  const std::string normalized = normalizer_.apply(std::string(text));
  for (const AddedTokenPiece& piece : normalized_finder_.pieces(normalized)) {
    if (piece.id) {
      ids.push_back(*piece.id);
      continue;
    }
    const Words words = pre_tokenizer_.apply(std::string(piece.span.of(normalized)),
                                             at_text_start && piece.span.begin == 0);
    for (const Span& word : words.spans) bpe_.encode(word.of(words.text), scratch, ids);
  }
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  require_utf8(text, "the text to be tokenized");
  std::vector<std::int32_t> ids;
  Bpe::Scratch scratch;
  for (const AddedTokenPiece& piece : raw_finder_.pieces(text)) {
    if (piece.id) {
      ids.push_back(*piece.id);
    } else {
      encode_plain(piece.span.of(text), piece.span.begin == 0, scratch, ids);
    }
  }
  return ids;
}

std::vector<std::int32_t> Tokenizer::encode_with_special(std::string_view text) const {
  return post_processor_.apply(encode(text));
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& model_folder) {
  TokenizerParts parts = read_tokenizer_files(model_folder);
  try {
    return std::make_unique<Tokenizer>(std::move(parts));
  } catch (const InputError& error) {
    throw InputError(fmt::format("{}: the tokenizer: {}", model_folder.string(), error.what()));
  }
}

}  // namespace quern
