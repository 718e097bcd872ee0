#include <array>

#include "kernels/core/error.h"
#include "kernels/core/float16.h"
#include "pipeline/exporters/dequantized.h"
#include "pipeline/exporters/exporter.h"
#include "pipeline/exporters/gptq.h"
#include "pipeline/exporters/squeezellm.h"

namespace quern {
namespace {

struct FormatRow {
  OutputFormat format;
  std::unique_ptr<Exporter> (*make)(const Plan&);
};

constexpr std::array kFormats = {
    FormatRow{OutputFormat::gptq, make_gptq_exporter},
    FormatRow{OutputFormat::dequantized, make_dequantized_exporter},
    FormatRow{OutputFormat::squeezellm, make_squeezellm_exporter},
    FormatRow{OutputFormat::squeezellm_safetensors, make_squeezellm_safetensors_exporter},
};

float load(const HostTensor& tensor, std::size_t i) {
  switch (tensor.dtype) {
    case DType::f16:
      return f16_to_float(tensor.as<std::uint16_t>()[i]);
    case DType::bf16:
      return bf16_to_float(tensor.as<std::uint16_t>()[i]);
    case DType::f64:
      return static_cast<float>(tensor.as<double>()[i]);
    default:
      return tensor.as<float>()[i];
  }
}

void save(HostTensor& tensor, std::size_t i, float value) {
  switch (tensor.dtype) {
    case DType::f16:
      tensor.as<std::uint16_t>()[i] = float_to_f16(value);
      break;
    case DType::bf16:
      tensor.as<std::uint16_t>()[i] = float_to_bf16(value);
      break;
    case DType::f64:
      tensor.as<double>()[i] = static_cast<double>(value);
      break;
    default:
      tensor.as<float>()[i] = value;
  }
}

}  // namespace

std::unique_ptr<Exporter> make_exporter(OutputFormat format, const Plan& plan) {
  for (const FormatRow& row : kFormats) {
    if (row.format == format) return row.make(plan);
  }
  throw InternalError("output.format: no exporter is registered for the configured format");
}

HostTensor converted(HostTensor tensor, DType dtype) {
  if (tensor.dtype == dtype) return tensor;
  ensure(is_plain_float(tensor.dtype) && is_plain_float(dtype), "plain float types to convert");
  HostTensor result(dtype, tensor.shape);
  const auto elems = static_cast<std::size_t>(tensor.shape.elems());
  for (std::size_t i = 0; i < elems; ++i) save(result, i, load(tensor, i));
  return result;
}

}  // namespace quern
