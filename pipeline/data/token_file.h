#pragma once

#include <filesystem>
#include <vector>

#include "kernels/core/tensor.h"

namespace quern {

/// True for the endings of files that hold token ids instead of text: .npy, .safetensors.
bool is_token_file(const std::filesystem::path& path);

/// Token ids as they lie in a file.
struct TokenRows {
  std::vector<std::vector<std::int32_t>> rows;  ///< one row for a stream
  bool is_windows = false;                      ///< two-dimensional: each row is a window
};

/// Reads one- or two-dimensional ids of any integer type: a .npy file, or of a .safetensors file
/// the tensor "input_ids" or the only one. Throws InputError naming the file if they are anything
/// else, or if an id is negative or not below `vocab_size`.
TokenRows read_token_file(const std::filesystem::path& path, std::int64_t vocab_size);

}  // namespace quern
