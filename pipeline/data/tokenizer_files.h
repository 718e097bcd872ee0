#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "pipeline/data/added_tokens.h"
#include "pipeline/data/bpe.h"
#include "pipeline/data/normalizer.h"
#include "pipeline/data/post_processor.h"
#include "pipeline/data/pre_tokenizer.h"

namespace quern {

/// What the tokenizer files of a model folder say.
struct TokenizerParts {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  PostProcessor post_processor;
  BpeModel model;
  std::vector<AddedToken> added;
  std::optional<std::int32_t> bos;
  std::optional<std::int32_t> eos;
};

/// Reads tokenizer.json, or vocab.json and merges.txt; then what tokenizer_config.json and
/// special_tokens_map.json add. Throws InputError naming file and path.
TokenizerParts read_tokenizer_files(const std::filesystem::path& folder);

}  // namespace quern
