#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kernels/core/tensor.h"
#include "pipeline/config/run_config.h"
#include "pipeline/data/tokenizer.h"

namespace quern {

/// Windows of token ids, all of one length.
struct TokenWindows {
  HostTensor ids;    ///< i32 [count, sequence_length]
  std::string hash;  ///< XXH3 of count, length and ids: the identity of the set

  std::int64_t count() const { return ids.shape[0]; }
  std::int64_t sequence_length() const { return ids.shape[1]; }
};

/// What the model says about token ids.
struct TokenLimits {
  std::int64_t vocab_size = 0;                        ///< every id must be below
  std::int64_t max_positions = 0;                     ///< the longest sequence; 0: no limit
  std::optional<std::int32_t> bos_id = std::nullopt;  ///< used where no tokenizer names one
};

/// Cuts the calibration set, the same on every platform. A window of S tokens is begin-of-sequence
/// and S - 1 tokens of the text, or S tokens without it (bos: automatic adds it if the tokenizer
/// does).
///
/// sequential: all documents joined by "\n\n" are tokenized as one string without special tokens
/// and cut from the start into neighbouring windows. Of many documents only the first are read,
/// whole ones, until they yield the windows and 1024 tokens more.
///
/// random: documents in the random order of the seed are tokenized one by one; one that is shorter
/// than a window is passed over, every other gives one window at a random place. If there are
/// fewer documents than samples, the long ones give several that do not overlap. A text file is
/// one document.
///
/// Sources may be token ids instead (.npy, .safetensors; no tokenizer needed): one axis is cut like
/// a tokenized document, the rows of two axes are windows as they stand, of which the first S ids
/// are used.
///
/// Throws ConfigError for settings that cannot be met, InputError if the text yields too few
/// windows or an id is outside the vocabulary.
TokenWindows calibration_windows(const CalibrationConfig& config, const Tokenizer* tokenizer,
                                 const TokenLimits& limits);

/// The same, sequential; samples 0 means all whole windows.
TokenWindows evaluation_windows(const EvaluateConfig& config, const Tokenizer* tokenizer,
                                const TokenLimits& limits);

}  // namespace quern
