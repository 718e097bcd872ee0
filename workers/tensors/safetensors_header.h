#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>

#include "workers/tensors/tensor_file.h"

namespace quern {

/// Bytes of the header's length field, which precedes it.
inline constexpr std::uint64_t kSafetensorsPrefixBytes = 8;
inline constexpr std::uint64_t kSafetensorsMaxHeaderBytes = 100'000'000;

/// Tensors of a header (JSON text without the length field) of a file of `file_bytes`. The tensors
/// must cover the rest of the file exactly. Throws InputError with path, tensor, what was found
/// and what was expected. The path is only for messages.
std::map<std::string, TensorEntry> parse_safetensors_header(std::string_view header,
                                                            std::uint64_t file_bytes,
                                                            const std::filesystem::path& path);

/// Length field and header of a file that holds these tensors in this order, __metadata__
/// {"format": "pt"}, padded with spaces to a multiple of 8. Names must be unique and sorted.
std::string format_safetensors_header(std::span<const TensorSpec> specs);

/// A value for an error message: JSON in ASCII, shortened.
std::string shown(const nlohmann::json& value);

}  // namespace quern
