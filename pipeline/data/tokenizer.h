#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "pipeline/data/added_tokens.h"
#include "pipeline/data/bpe.h"
#include "pipeline/data/normalizer.h"
#include "pipeline/data/post_processor.h"
#include "pipeline/data/pre_tokenizer.h"

namespace quern {

struct TokenizerParts;

/// Turns text into token ids as the model's own tokenizer does. Immutable and thread-safe.
/// Properties of characters (letter, digit ...) are those of Unicode 14; a character assigned
/// later is like an unassigned one.
class Tokenizer {
 public:
  explicit Tokenizer(TokenizerParts parts);

  /// Ids of valid UTF-8, no special token added; tokens written out in the text are found.
  /// Throws InputError with the byte offset of invalid UTF-8.
  std::vector<std::int32_t> encode(std::string_view text) const;
  /// The same, and the special tokens that the model expects around a text.
  std::vector<std::int32_t> encode_with_special(std::string_view text) const;

  /// Begin-of-sequence, if the tokenizer names one.
  std::optional<std::int32_t> bos_id() const noexcept { return bos_; }
  /// encode_with_special starts with begin-of-sequence.
  bool adds_bos() const noexcept;
  /// One more than the largest id.
  std::int64_t vocab_size() const noexcept { return vocab_size_; }
  /// The token as it stands in the vocabulary; empty for an id without token.
  std::string_view token(std::int32_t id) const;

 private:
  void encode_plain(std::string_view text, bool at_text_start, Bpe::Scratch& scratch,
                    std::vector<std::int32_t>& ids) const;

  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  PostProcessor post_processor_;
  Bpe bpe_;
  std::vector<AddedToken> added_;
  AddedTokenFinder raw_finder_;
  AddedTokenFinder normalized_finder_;
  std::optional<std::int32_t> bos_;
  std::int64_t vocab_size_ = 0;
};

/// Reads the tokenizer of a Hugging Face model folder: tokenizer.json with a BPE model, or
/// vocab.json and merges.txt (GPT-2, OPT); tokenizer_config.json names begin-of-sequence. Where
/// both speak of an added token, tokenizer.json counts. Throws InputError naming the file and the
/// path of whatever is not understood: a wrong token would be worse than a refusal.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& model_folder);

}  // namespace quern
