#include "pipeline/model/gptq_weights.h"

#include <fmt/format.h>

#include <array>

#include "kernels/core/error.h"
#include "pipeline/model/packed_checkpoint.h"
#include "pipeline/model/packed_codes.h"

namespace quern {
namespace {

constexpr std::array kPackedParts = {"qweight", "qzeros", "scales", "g_idx"};

std::int64_t words_for(std::int64_t count, int bits) {
  return (count * bits + 31) / 32;
}

/// words: qweight, which need not be in `tensors`.
void check_shapes(const GptqTensors& tensors, const TensorSpec& words, int bits,
                  const std::string& module) {
  if (tensors.g_idx.shape.rank() != 1 || tensors.scales.shape.rank() != 2) {
    throw InputError(
        fmt::format("module '{}': g_idx must have one dimension and scales two", module));
  }
  const std::int64_t columns = tensors.g_idx.shape[0];
  const std::int64_t groups = tensors.scales.shape[0];
  const std::int64_t rows = tensors.scales.shape[1];
  expect_tensor(spec_of(module + ".g_idx", tensors.g_idx), DType::i32, {columns});
  expect_tensor(spec_of(module + ".scales", tensors.scales), DType::f16, {groups, rows});
  expect_tensor(words, DType::i32, {words_for(columns, bits), rows});
  expect_tensor(spec_of(module + ".qzeros", tensors.qzeros), DType::i32,
                {groups, words_for(rows, bits)});
  for (const std::int32_t group : tensors.g_idx.as<std::int32_t>()) {
    if (group >= 0 && group < groups) continue;
    throw InputError(fmt::format("tensor '{}.g_idx' names group {}; there are {} groups", module,
                                 group, groups));
  }
}

int read_bits(const nlohmann::ordered_json& config, std::string_view where) {
  const auto bits = config.find("bits");
  if (bits != config.end() && bits->is_number_integer() && *bits >= 2 && *bits <= 8) return *bits;
  throw InputError(fmt::format("{}: bits is {}; expected 2 to 8", where,
                               bits == config.end() ? "missing" : bits->dump()));
}

/// Empty where the field is absent or no string.
std::string text_of(const nlohmann::ordered_json& config, const char* key) {
  const auto field = config.find(key);
  return field != config.end() && field->is_string() ? field->get<std::string>() : std::string();
}

/// Types and shapes of a packed module's tensors, without reading them; the words follow from the
/// bits and are checked when they are decoded.
void check_packed(const TensorNode& node, const TensorSource& source, const std::string& module) {
  for (const char* part : kPackedParts) source.entry(module + "." + part);
  const Shape& scales = source.entry(module + ".scales").shape;
  const Shape& g_idx = source.entry(module + ".g_idx").shape;
  const bool fits = node.shape.rank() == 2 && scales.rank() == 2 && scales[1] == node.shape[0] &&
                    g_idx == Shape{node.shape[1]};
  if (fits) return;
  throw InputError(fmt::format(
      "{}: module '{}' is packed with scales {} and g_idx {}; config.json calls for a "
      "weight of shape {}",
      source.folder().string(), module, scales.text(), g_idx.text(), node.shape.text()));
}

/// Zero points [G, N] u8.
HostTensor unpack_zeros(const GptqTensors& tensors, int bits, int stored_zero_offset) {
  HostTensor zeros(DType::u8, tensors.scales.shape);
  const std::int64_t groups = tensors.scales.shape[0];
  const std::int64_t rows = tensors.scales.shape[1];
  const auto zero_words = static_cast<std::size_t>(tensors.qzeros.shape[1]);
  const std::uint32_t mask = (1U << bits) - 1U;
  for (std::int64_t g = 0; g < groups; ++g) {
    const auto words = tensors.qzeros.as<std::int32_t>().subspan(
        static_cast<std::size_t>(g) * zero_words, zero_words);
    for (std::int64_t n = 0; n < rows; ++n) {
      // v1 readers add the one back modulo 2^bits.
      const std::uint32_t stored = packed_field(words, 1, n, bits);
      zeros.as<std::uint8_t>()[static_cast<std::size_t>(g * rows + n)] = static_cast<std::uint8_t>(
          (stored + static_cast<std::uint32_t>(stored_zero_offset)) & mask);
    }
  }
  return zeros;
}

}  // namespace

HostTensor decode_gptq(const GptqTensors& tensors, int bits, int stored_zero_offset,
                       std::string_view module) {
  const std::string name(module);
  check_shapes(tensors, spec_of(name + ".qweight", tensors.qweight), bits, name);
  const HostTensor zeros = unpack_zeros(tensors, bits, stored_zero_offset);
  return decode_grid({tensors.qweight, tensors.scales, zeros, tensors.g_idx, bits});
}

GptqWeights::Override GptqWeights::read_override(const std::string& key,
                                                 const nlohmann::ordered_json& value,
                                                 int default_bits, std::string_view origin) {
  const std::string where = fmt::format("{}: dynamic '{}'", origin, key);
  if (!value.is_object()) {
    throw InputError(fmt::format("{} is {}; expected an object", where, value.dump()));
  }
  const bool skip = key.starts_with("-:");
  const std::string expression = skip || key.starts_with("+:") ? key.substr(2) : key;
  const int bits = value.contains("bits") ? read_bits(value, where) : default_bits;
  try {
    return {std::regex(expression), skip, bits};
  } catch (const std::regex_error& error) {
    throw InputError(
        fmt::format("{}: not a regular expression that can be used here: {}", where, error.what()));
  }
}

GptqWeights::GptqWeights(const TensorSource& source, const nlohmann::ordered_json& config,
                         std::string_view origin)
    : source_(source) {
  if (!config.is_object()) {
    throw InputError(fmt::format("{}: is {}; expected an object", origin, config.type_name()));
  }
  const std::string method = text_of(config, "quant_method");
  const char* key = config.contains("checkpoint_format") ? "checkpoint_format" : "format";
  const std::string format = text_of(config, key);
  if (method != "gptq" || (format != "gptq" && format != "gptq_v2")) {
    throw InputError(
        fmt::format("{}: quant_method '{}', checkpoint_format '{}'; a quantized model "
                    "can be read as 'squeezellm', or as 'gptq' in format 'gptq' or 'gptq_v2'; "
                    "give the unquantized model instead",
                    origin, method, format));
  }
  bits_ = read_bits(config, origin);
  stored_zero_offset_ = format == "gptq" ? 1 : 0;
  const auto dynamic = config.find("dynamic");
  if (dynamic == config.end() || dynamic->is_null()) return;
  if (!dynamic->is_object()) {
    throw InputError(fmt::format("{}: dynamic is {}; expected an object of expressions", origin,
                                 dynamic->type_name()));
  }
  for (const auto& [expression, value] : dynamic->items()) {
    overrides_.push_back(read_override(expression, value, bits_, origin));
  }
}

bool GptqWeights::is_packed(const std::string& module) const {
  return source_.contains(module + ".qweight");
}

int GptqWeights::bits_of(const std::string& module) const {
  for (const bool negative : {true, false}) {
    for (const Override& entry : overrides_) {
      if (entry.skip == negative &&
          std::regex_search(module, entry.expression, std::regex_constants::match_continuous)) {
        return entry.bits;
      }
    }
  }
  return bits_;
}

/// All but its words.
GptqTensors GptqWeights::read_grid(const std::string& module) const {
  return {{},
          source_.read(module + ".qzeros"),
          source_.read(module + ".scales"),
          source_.read(module + ".g_idx")};
}

HostTensor GptqWeights::read(const std::string& name) const {
  const std::string module = packed_module(name);
  if (!is_packed(module)) return source_.read(name);
  GptqTensors tensors = read_grid(module);
  tensors.qweight = source_.read(module + ".qweight");
  return decode_gptq(tensors, bits_of(module), stored_zero_offset_, module);
}

void GptqWeights::read_pieces(const std::string& name, const TakeValues& take) const {
  const std::string module = packed_module(name);
  if (!is_packed(module)) return WeightSource::read_pieces(name, take);
  const std::string words = module + ".qweight";
  const TensorEntry& entry = source_.entry(words);
  const int bits = bits_of(module);
  const GptqTensors tensors = read_grid(module);
  check_shapes(tensors, {words, entry.dtype, entry.shape}, bits, module);
  const HostTensor zeros = unpack_zeros(tensors, bits, stored_zero_offset_);
  read_columns(source_, words, [&](std::int64_t first, const HostTensor& strip) {
    decode_grid({strip, tensors.scales, zeros, tensors.g_idx, bits, first}, take);
  });
}

std::uint64_t GptqWeights::bytes(const std::string& name) const {
  if (source_.contains(name)) return source_.entry(name).bytes;
  const std::string module = name.substr(0, name.rfind('.'));
  return source_.entry(module + ".qweight").bytes;
}

void check_gptq_checkpoint(const ModelGraph& graph, const TensorSource& source,
                           const GptqWeights& weights) {
  check_packed_checkpoint(graph, source, [&](const TensorNode& node, const std::string& module) {
    if (!weights.is_packed(module)) return false;
    check_packed(node, source, module);
    return true;
  });
}

}  // namespace quern
