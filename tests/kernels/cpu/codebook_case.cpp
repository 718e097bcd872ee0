#include "tests/kernels/cpu/codebook_case.h"

#include <algorithm>

#include "tests/support/paths.h"
#include "workers/tensors/safetensors.h"
#include "workers/tensors/tensor_source.h"

namespace quern::test {

Decoded decode(const CodebookTensor& quantized) {
  const std::int64_t rows = quantized.codes.shape()[0];
  const std::int64_t columns = quantized.codes.shape()[1];
  const std::int64_t count = quantized.table.shape()[1];
  Decoded decoded{Matrix(rows, columns), Matrix(rows, columns), 0};
  const auto* starts = quantized.rows.view().as<std::int32_t>();
  for (std::int64_t n = 0; n < rows; ++n) {
    for (std::int64_t k = 0; k < columns; ++k) {
      const std::uint8_t code = quantized.codes.view().as<std::uint8_t>()[n * columns + k];
      decoded.values(n, k) = quantized.table.view().as<float>()[n * count + code];
    }
    for (std::int32_t i = starts[n]; i < starts[n + 1]; ++i) {
      const std::int32_t column = quantized.cols.view().as<std::int32_t>()[i];
      const float value = quantized.vals.view().as<float>()[i];
      // Added as a reader of the format adds: in float.
      decoded.values(n, column) = static_cast<float>(decoded.values(n, column)) + value;
      decoded.outlier(n, column) = 1.0;
    }
  }
  decoded.outliers = starts[rows];
  return decoded;
}

namespace {

void expect_sound_table(const float* table, const CodebookSpec& spec) {
  for (int c = 0; c < 1 << spec.bits; ++c) {
    EXPECT_TRUE(c == 0 || table[c - 1] <= table[c]);
    if (spec.table_dtype == DType::f16) {
      EXPECT_EQ(f16_to_float(float_to_f16(table[c])), table[c]);
    }
  }
}

void expect_sound_outliers(const CodebookTensor& quantized, const CodebookSpec& spec,
                           std::int64_t n) {
  const std::int64_t columns = quantized.codes.shape()[1];
  const float* table = quantized.table.view().as<float>() + (n << spec.bits);
  const auto* cols = quantized.cols.view().as<std::int32_t>();
  const auto* starts = quantized.rows.view().as<std::int32_t>();
  int zero = 0;
  for (int c = 1; c < 1 << spec.bits; ++c) {
    if (std::fabs(table[c]) < std::fabs(table[zero])) zero = c;
  }
  for (std::int32_t i = starts[n]; i < starts[n + 1]; ++i) {
    ASSERT_TRUE(cols[i] >= 0 && cols[i] < columns);
    EXPECT_TRUE(i == starts[n] || cols[i - 1] < cols[i]);
    EXPECT_EQ(quantized.codes.view().as<std::uint8_t>()[n * columns + cols[i]], zero);
    EXPECT_EQ(bf16_to_float(float_to_bf16(table[zero])), table[zero]);
  }
}

}  // namespace

void expect_sound(const CodebookCase& module, const CodebookTensor& quantized,
                  const CodebookSpec& spec) {
  const std::int64_t rows = module.w.rows;
  ASSERT_EQ(quantized.codes.shape(), (Shape{rows, module.w.columns}));
  ASSERT_EQ(quantized.table.shape(), (Shape{rows, std::int64_t{1} << spec.bits}));
  ASSERT_EQ(quantized.rows.shape(), (Shape{rows + 1}));
  const auto* codes = quantized.codes.view().as<std::uint8_t>();
  ASSERT_TRUE(std::all_of(codes, codes + quantized.codes.view().elems(),
                          [&](std::uint8_t code) { return code < 1 << spec.bits; }));
  const auto* starts = quantized.rows.view().as<std::int32_t>();
  ASSERT_EQ(starts[0], 0);
  ASSERT_EQ(quantized.cols.shape(), (Shape{starts[rows]}));
  ASSERT_EQ(quantized.vals.shape(), (Shape{starts[rows]}));
  for (std::int64_t n = 0; n < rows; ++n) {
    ASSERT_LE(starts[n], starts[n + 1]);
    expect_sound_table(quantized.table.view().as<float>() + (n << spec.bits), spec);
    expect_sound_outliers(quantized, spec, n);
  }
  const Decoded decoded = decode(quantized);
  const bool exactly = module.weight.dtype() == DType::bf16 || module.weight.dtype() == DType::f16;
  for (std::size_t i = 0; i < module.w.values.size(); ++i) {
    if (decoded.outlier.values[i] == 0.0) continue;
    const auto n = static_cast<std::int64_t>(i) / module.w.columns;
    const float* table = quantized.table.view().as<float>() + (n << spec.bits);
    const double centroid = table[quantized.codes.view().as<std::uint8_t>()[i]];
    const double size = std::fabs(module.w.values[i]) + std::fabs(centroid);
    const double allowed = exactly ? 0.0 : 2.0 * kRounding * size;
    ASSERT_LE(std::fabs(decoded.values.values[i] - module.w.values[i]), allowed) << i;
  }
}

double weighted_error_of(const CodebookCase& module, const CodebookTensor& quantized) {
  const Decoded decoded = decode(quantized);
  double sum = 0.0;
  for (std::size_t i = 0; i < module.w.values.size(); ++i) {
    const double error = module.w.values[i] - decoded.values.values[i];
    sum += module.f.values[i] * error * error;
  }
  return sum;
}

std::vector<std::byte> bytes_of(const CodebookTensor& quantized) {
  std::vector<std::byte> bytes;
  for (const Tensor* part :
       {&quantized.codes, &quantized.table, &quantized.rows, &quantized.cols, &quantized.vals}) {
    const std::vector<std::byte> own = bytes_of(part->view());
    bytes.insert(bytes.end(), own.begin(), own.end());
  }
  return bytes;
}

RealModule real_module(Memory& memory, const std::string& model, const std::string& name) {
  RealModule real;
  const HostTensor weight = TensorSource(shared_dir() / "models" / model).read(name + ".weight");
  const SafetensorsFile golden(shared_dir() / "golden" / (model + ".safetensors"));
  const auto read = [&](const std::string& key) {
    const TensorEntry& entry = golden.entries().at(key);
    HostTensor host(entry.dtype, entry.shape);
    golden.read(entry, host.bytes);
    Matrix matrix(entry.shape[0], entry.shape[1]);
    const auto values = host.as<float>();
    std::copy(values.begin(), values.end(), matrix.values.begin());
    return matrix;
  };
  Matrix w(weight.shape[0], weight.shape[1]);
  const auto stored = weight.as<std::uint16_t>();
  std::transform(stored.begin(), stored.end(), w.values.begin(), bf16_to_float);
  real.module = make_case(memory, DType::bf16, std::move(w), read("fisher." + name + ".weight"));
  real.h = read("xtx." + name);
  return real;
}

}  // namespace quern::test
