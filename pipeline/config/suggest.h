#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quern {

/// "did you mean 'x'?" for the candidate closest to `word` in edit distance; empty if none is
/// close.
std::string did_you_mean(std::string_view word, const std::vector<std::string_view>& candidates);

/// "a, b, c" for the separator ", ".
std::string joined(std::span<const std::string_view> words, std::string_view separator);

}  // namespace quern
