#include "pipeline/model/fp8_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "kernels/core/error.h"
#include "kernels/core/float16.h"
#include "kernels/core/float8.h"

namespace quern {
namespace {

constexpr std::int64_t kMostBlock = 1 << 20;

std::string scale_name(const std::string& weight) {
  return weight + "_scale_inv";
}

std::array<float, 256> e4m3_values() {
  std::array<float, 256> values{};
  for (unsigned bits = 0; bits < values.size(); ++bits) {
    values[bits] = e4m3_to_float(static_cast<std::uint8_t>(bits));
  }
  return values;
}

std::string text_of(const nlohmann::json& config, const char* key, const char* absent) {
  const auto field = config.find(key);
  if (field == config.end() || field->is_null()) return absent;
  return field->is_string() ? field->get<std::string>() : field->dump();
}

Fp8Blocks read_blocks(const nlohmann::json& config, std::string_view origin) {
  const auto field = config.find("weight_block_size");
  const bool found = field != config.end();
  const auto is_size = [](const nlohmann::json& value) {
    return value.is_number_integer() && value >= 1 && value <= kMostBlock;
  };
  if (found && field->is_array() && field->size() == 2 && std::ranges::all_of(*field, is_size)) {
    return {(*field)[0].get<std::int64_t>(), (*field)[1].get<std::int64_t>()};
  }
  throw InputError(fmt::format(
      "{}: weight_block_size is {}; FP8 weights can be read with one scale per block, expected two "
      "sizes such as [128, 128]; give the unquantized model instead",
      origin, found ? field->dump() : "missing"));
}

template <typename Stored, typename Narrow>
void decode_rows(const HostTensor& weight, const HostTensor& scales, const Fp8Blocks& blocks,
                 HostTensor& out, Narrow narrow) {
  static const std::array<float, 256> kValues = e4m3_values();
  const std::int64_t columns = weight.shape[1];
  const auto* codes = reinterpret_cast<const std::uint8_t*>(weight.bytes.data());
  Stored* row = out.as<Stored>().data();
  for (std::int64_t n = 0; n < weight.shape[0]; ++n, codes += columns, row += columns) {
    const float* scale = scales.as<float>().data() + n / blocks.rows * scales.shape[1];
    for (std::int64_t begin = 0; begin < columns; begin += blocks.columns, ++scale) {
      const std::int64_t end = std::min(columns, begin + blocks.columns);
      for (std::int64_t k = begin; k < end; ++k) row[k] = narrow(kValues[codes[k]] * *scale);
    }
  }
}

}  // namespace

Shape Fp8Blocks::scales_of(const Shape& weight) const {
  return {(weight[0] + rows - 1) / rows, (weight[1] + columns - 1) / columns};
}

HostTensor decode_fp8(const HostTensor& weight, const HostTensor& scales, const Fp8Blocks& blocks,
                      DType dtype, std::string_view name) {
  const bool fits = weight.dtype == DType::f8_e4m3 && weight.shape.rank() == 2 &&
                    scales.dtype == DType::f32 && scales.shape == blocks.scales_of(weight.shape);
  if (!fits) {
    throw InputError(fmt::format(
        "tensor '{}' is {} {} with scales {} {}; expected a matrix F8_E4M3 and one F32 scale for "
        "every block of {} x {}",
        name, dtype_name(weight.dtype), weight.shape.text(), dtype_name(scales.dtype),
        scales.shape.text(), blocks.rows, blocks.columns));
  }
  HostTensor out(dtype, weight.shape);
  if (dtype == DType::bf16) {
    decode_rows<std::uint16_t>(weight, scales, blocks, out, float_to_bf16);
  } else if (dtype == DType::f16) {
    decode_rows<std::uint16_t>(weight, scales, blocks, out, float_to_f16);
  } else {
    ensure(dtype == DType::f32, "f32, f16 or bf16 for decoded weights");
    decode_rows<float>(weight, scales, blocks, out, [](float value) { return value; });
  }
  return out;
}

Fp8Weights::Fp8Weights(const TensorSource& source, const nlohmann::json& config, DType dtype,
                       std::string_view origin)
    : source_(source), dtype_(dtype) {
  ensure(config.is_object(), "an object of quantization settings");
  const std::string method = text_of(config, "quant_method", "missing");
  const std::string format = text_of(config, "fmt", "e4m3");
  if (method != "fp8" || format != "e4m3") {
    throw InputError(
        fmt::format("{}: quant_method '{}', fmt '{}'; expected 'fp8' and 'e4m3'; give the "
                    "unquantized model instead",
                    origin, method, format));
  }
  blocks_ = read_blocks(config, origin);
}

bool Fp8Weights::is_fp8(const std::string& name) const {
  return source_.entry(name).dtype == DType::f8_e4m3;
}

HostTensor Fp8Weights::read(const std::string& name) const {
  if (!is_fp8(name)) return source_.read(name);
  return decode_fp8(source_.read(name), source_.read(scale_name(name)), blocks_, dtype_, name);
}

std::optional<StoredTensor> Fp8Weights::stored(const std::string& name) const {
  return is_fp8(name) ? std::nullopt : source_.stored(name);
}

std::uint64_t Fp8Weights::bytes(const std::string& name) const {
  const std::uint64_t own = source_.entry(name).bytes;
  return is_fp8(name) ? own + source_.entry(scale_name(name)).bytes : own;
}

std::vector<std::string> Fp8Weights::stored_names(const TensorNode& node) const {
  if (!is_fp8(node.name)) return {};
  const TensorEntry& weight = source_.entry(node.name);
  const std::string scale = scale_name(node.name);
  const std::string file = (source_.folder() / source_.shard_name(node.name)).string();
  if (node.shape.rank() != 2 || weight.shape != node.shape) {
    throw InputError(fmt::format("{}: tensor '{}' is F8_E4M3 {}; config.json calls for {}{}", file,
                                 node.name, weight.shape.text(), node.shape.text(),
                                 node.shape.rank() == 2 ? "" : " in F32, F16 or BF16"));
  }
  if (!source_.contains(scale)) {
    throw InputError(
        fmt::format("{}: tensor '{}' is F8_E4M3, but no shard has its scales '{}'; expected F32 "
                    "{}; download the missing shard",
                    file, node.name, scale, blocks_.scales_of(node.shape).text()));
  }
  const TensorEntry& scales = source_.entry(scale);
  if (scales.dtype != DType::f32 || scales.shape != blocks_.scales_of(node.shape)) {
    throw InputError(fmt::format(
        "{}: tensor '{}' is {} {}; expected F32 {} for a weight {} in blocks of {} x {}",
        (source_.folder() / source_.shard_name(scale)).string(), scale, dtype_name(scales.dtype),
        scales.shape.text(), blocks_.scales_of(node.shape).text(), node.shape.text(), blocks_.rows,
        blocks_.columns));
  }
  return {node.name, scale};
}

}  // namespace quern
