#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <string_view>

#include "pipeline/config/run_config.h"

namespace quern {

/// Names of an enum in run files and reports, in the order of its values.
template <typename Enum>
inline constexpr std::array<std::string_view, 0> kNames{};

template <>
inline constexpr std::array<std::string_view, 3> kNames<Method>{"rtn", "gptq", "squeezellm"};
template <>
inline constexpr std::array<std::string_view, 2> kNames<Propagation>{"quantized", "original"};
template <>
inline constexpr std::array<std::string_view, 2> kNames<OutlierSelection>{"paper", "joint"};
template <>
inline constexpr std::array<std::string_view, 2> kNames<OutlierBudget>{"module", "model"};
template <>
inline constexpr std::array<std::string_view, 2> kNames<CodebookType>{"float32", "float16"};
template <>
inline constexpr std::array<std::string_view, 2> kNames<CodebookSearch>{"kmeans", "lnq"};
template <>
inline constexpr std::array<std::string_view, 2> kNames<Statistics>{"discard", "keep"};
template <>
inline constexpr std::array<std::string_view, 4> kNames<OutputFormat>{
    "gptq", "dequantized", "squeezellm", "squeezellm_safetensors"};
template <>
inline constexpr std::array<std::string_view, 3> kNames<Resume>{"auto", "required", "never"};
template <>
inline constexpr std::array<std::string_view, 2> kNames<Sampling>{"sequential", "random"};
template <>
inline constexpr std::array<std::string_view, 3> kNames<BosPolicy>{"auto", "always", "never"};
template <>
inline constexpr std::array<std::string_view, 3> kNames<Device>{"auto", "cpu", "cuda"};
template <>
inline constexpr std::array<std::string_view, 5> kNames<ActivationType>{
    "auto", "float64", "float32", "bfloat16", "float16"};
template <>
inline constexpr std::array<std::string_view, 4> kNames<LogLevel>{"debug", "info", "warning",
                                                                  "error"};
template <>
inline constexpr std::array<std::string_view, 3> kNames<ActOrder>{"none", "group_aware", "full"};
template <>
inline constexpr std::array<std::string_view, 2> kNames<ScaleSearch>{"absmax", "weighted"};

template <typename Enum>
constexpr std::string_view name_of(Enum value) {
  return kNames<Enum>.at(static_cast<std::size_t>(value));
}

/// Inverse of name_of; empty for an unknown name.
template <typename Enum>
constexpr std::optional<Enum> parse_name(std::string_view name) {
  const auto found = std::find(kNames<Enum>.begin(), kNames<Enum>.end(), name);
  if (found == kNames<Enum>.end()) return std::nullopt;
  return static_cast<Enum>(found - kNames<Enum>.begin());
}

}  // namespace quern
