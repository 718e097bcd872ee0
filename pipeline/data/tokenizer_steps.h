#pragma once

#include "pipeline/data/json_node.h"
#include "pipeline/data/normalizer.h"
#include "pipeline/data/post_processor.h"
#include "pipeline/data/pre_tokenizer.h"

namespace quern {

/// Read the objects of tokenizer.json with these names. Everything that is not understood is
/// refused with an InputError that names file and path.
Normalizer read_normalizer(const JsonNode& node);

/// `normalizes`: a normaliser runs before.
PreTokenizer read_pre_tokenizer(const JsonNode& node, bool normalizes);

PostProcessor read_post_processor(const JsonNode& node);

/// The cut of GPT-2, as the pre-tokenizer ByteLevel makes it.
PreTokenizer byte_level_pre_tokenizer(bool add_prefix_space);

}  // namespace quern
