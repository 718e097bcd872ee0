#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "pipeline/model/gptq_weights.h"
#include "pipeline/model/squeezellm_weights.h"
#include "tests/support/paths.h"
#include "workers/tensors/safetensors.h"

namespace quern::test {
namespace {

// 8 bits, and words of so many lines that they are read in strips of 256 rows of the module.
constexpr std::int64_t kRows = 300;
constexpr std::int64_t kColumns = 16448;

std::uint8_t code_at(std::int64_t n, std::int64_t k) {
  return static_cast<std::uint8_t>(n * 31 + k * 7 + k / 256);
}

/// Byte k % 4 of word [k / 4, n] is the code of column k in row n.
HostTensor packed_words() {
  HostTensor words(DType::i32, {kColumns / 4, kRows});
  auto* bytes = reinterpret_cast<std::uint8_t*>(words.bytes.data());
  for (std::int64_t k = 0; k < kColumns; ++k) {
    for (std::int64_t n = 0; n < kRows; ++n) {
      bytes[(k / 4 * kRows + n) * 4 + k % 4] = code_at(n, k);
    }
  }
  return words;
}

class PackedStrips : public testing::Test {
 protected:
  void write(const std::map<std::string, HostTensor>& tensors) const {
    std::vector<TensorSpec> specs;
    for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.dtype, tensor.shape});
    SafetensorsWriter writer(folder_.path() / "model.safetensors", specs);
    for (const auto& [name, tensor] : tensors) writer.write(name, tensor.bytes);
    writer.commit();
  }

  /// The pieces follow one another, and hold what `expected` says of row n and column k.
  static void expect_pieces(const WeightSource& weights,
                            const std::function<float(std::int64_t, std::int64_t)>& expected) {
    std::uint64_t seen = 0;
    std::int64_t wrong = 0;
    weights.read_pieces("m.weight", [&](std::uint64_t first, std::span<const float> values) {
      EXPECT_EQ(first, seen);
      for (const float value : values) {
        const auto at = static_cast<std::int64_t>(seen++);
        wrong += value == expected(at / kColumns, at % kColumns) ? 0 : 1;
      }
    });
    EXPECT_EQ(seen, static_cast<std::uint64_t>(kRows * kColumns));
    EXPECT_EQ(wrong, 0);
  }

  TemporaryDirectory folder_;
};

TEST_F(PackedStrips, OfAGrid) {
  std::map<std::string, HostTensor> tensors;
  tensors["m.qweight"] = packed_words();
  tensors["m.g_idx"] = HostTensor(DType::i32, {kColumns});
  tensors["m.scales"] = HostTensor(DType::f16, {1, kRows});
  tensors["m.qzeros"] = HostTensor(DType::i32, {1, kRows / 4});
  for (std::size_t n = 0; n < kRows; ++n) {
    const bool half = n % 2 == 1;
    tensors["m.scales"].as<std::uint16_t>()[n] = half ? 0x3800 : 0x3C00;  // 0.5 or 1
    tensors["m.qzeros"].bytes[n] = static_cast<std::byte>(n % 251);
  }
  write(tensors);
  const TensorSource source(folder_.path());
  const GptqWeights weights(
      source, {{"quant_method", "gptq"}, {"checkpoint_format", "gptq_v2"}, {"bits", 8}}, "here");
  expect_pieces(weights, [](std::int64_t n, std::int64_t k) {
    const auto steps = static_cast<float>(code_at(n, k) - n % 251);
    return n % 2 == 1 ? 0.5F * steps : steps;
  });
}

TEST_F(PackedStrips, OfTablesWithOutliers) {
  std::map<std::string, HostTensor> tensors;
  tensors["m.qweight"] = packed_words();
  tensors["m.lookup_table"] = HostTensor(DType::f32, {kRows, 256});
  tensors["m.rows"] = HostTensor(DType::i32, {kRows + 1});
  tensors["m.cols"] = HostTensor(DType::i32, {kRows});
  tensors["m.vals"] = HostTensor(DType::f32, {kRows});
  for (std::int64_t n = 0; n < kRows; ++n) {
    const auto row = static_cast<std::size_t>(n);
    for (std::size_t code = 0; code < 256; ++code) {
      tensors["m.lookup_table"].as<float>()[row * 256 + code] =
          static_cast<float>(n * 256) + static_cast<float>(code);
    }
    tensors["m.rows"].as<std::int32_t>()[row + 1] = static_cast<std::int32_t>(n + 1);
    tensors["m.cols"].as<std::int32_t>()[row] = static_cast<std::int32_t>(50 * n);
    tensors["m.vals"].as<float>()[row] = 0.5F;
  }
  write(tensors);
  const TensorSource source(folder_.path());
  const SqueezellmWeights weights(source, {{"quant_method", "squeezellm"}, {"bits", 8}}, "here");
  expect_pieces(weights, [](std::int64_t n, std::int64_t k) {
    return static_cast<float>(n * 256 + code_at(n, k)) + (k == 50 * n ? 0.5F : 0.0F);
  });
}

}  // namespace
}  // namespace quern::test
