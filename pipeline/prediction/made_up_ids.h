#pragma once

#include <cstdint>
#include <filesystem>

#include "pipeline/config/run_config.h"

namespace quern {

/// Whether a model folder holds a tokenizer.
bool has_tokenizer(const std::filesystem::path& folder);

/// Windows that a text gives where their number is not limited, guessed from its length.
std::int64_t guessed_windows(const TextConfig& text);

/// Writes [windows, length] random ids below `vocabulary`.
void write_made_up_ids(const std::filesystem::path& file, std::int64_t windows, std::int64_t length,
                       std::int64_t vocabulary);

/// Makes such a file the source of `text`, which it may replace.
void take_ids_from(const std::filesystem::path& file, TextConfig& text);

}  // namespace quern
