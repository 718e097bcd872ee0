#include "pipeline/synthesis/synthetic_values.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <numbers>

#include "kernels/core/error.h"
#include "kernels/core/float16.h"
#include "kernels/core/float8.h"

namespace quern {
namespace {

constexpr std::size_t kQuantiles = 1 << 16;
constexpr std::uint64_t kWeyl = 0x9E3779B97F4A7C15U;  ///< the golden ratio, SplitMix64's step

/// SplitMix64's output function.
constexpr std::uint64_t mixed(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

/// The x at which the standard normal distribution reaches (i + 1/2) / kQuantiles, ascending.
std::vector<double> normal_quantiles() {
  std::vector<double> quantiles(kQuantiles);
  double x = 0.0;
  for (std::size_t i = kQuantiles / 2; i < kQuantiles; ++i) {
    const double above = 1.0 - (static_cast<double>(i) + 0.5) / kQuantiles;
    // Newton from the quantile before: on this side of a concave function it cannot overshoot.
    for (int step = 0; step < 8; ++step) {
      const double density = std::exp(-0.5 * x * x) / std::sqrt(2.0 * std::numbers::pi);
      x += (0.5 * std::erfc(x / std::numbers::sqrt2) - above) / density;
    }
    quantiles[i] = x;
    quantiles[kQuantiles - 1 - i] = -x;
  }
  return quantiles;
}

const std::vector<double>& quantiles() {
  static const std::vector<double> kTable = normal_quantiles();
  return kTable;
}

void store(DType dtype, float value, std::byte* out) {
  const auto put = [out](auto stored) { std::memcpy(out, &stored, sizeof(stored)); };
  switch (dtype) {
    case DType::f32:
      return put(value);
    case DType::f16:
      return put(float_to_f16(value));
    case DType::bf16:
      return put(float_to_bf16(value));
    default:
      ensure(dtype == DType::f8_e4m3, "f32, f16, bf16 or f8_e4m3 for synthetic values");
      return put(float_to_e4m3(value));
  }
}

template <typename Stored>
void fill_typed(const std::byte* table_bytes, std::uint64_t state, std::span<std::byte> bytes) {
  const auto* table = reinterpret_cast<const Stored*>(table_bytes);
  auto* out = reinterpret_cast<Stored*>(bytes.data());
  const std::size_t count = bytes.size() / sizeof(Stored);
  for (std::size_t i = 0; i + 4 <= count; i += 4) {
    const std::uint64_t random = mixed(state += kWeyl);
    out[i] = table[random & 0xFFFFU];
    out[i + 1] = table[(random >> 16) & 0xFFFFU];
    out[i + 2] = table[(random >> 32) & 0xFFFFU];
    out[i + 3] = table[random >> 48];
  }
  const std::uint64_t last = mixed(state + kWeyl);
  for (std::size_t i = count / 4 * 4; i < count; ++i) {
    out[i] = table[(last >> (16 * (i % 4))) & 0xFFFFU];
  }
}

}  // namespace

double farthest_deviation() {
  return quantiles().back();
}

std::uint64_t synthetic_key(std::uint64_t seed, std::string_view tensor) {
  std::uint64_t key = mixed(seed + kWeyl);
  for (const char c : tensor) key = mixed(key ^ static_cast<unsigned char>(c)) + kWeyl;
  return key;
}

SyntheticValues::SyntheticValues(DType dtype, double mean, double deviation)
    : dtype_(dtype), table_(kQuantiles * dtype_bytes(dtype)) {
  for (std::size_t i = 0; i < kQuantiles; ++i) {
    const auto value = static_cast<float>(mean + deviation * quantiles()[i]);
    store(dtype, value, table_.data() + i * dtype_bytes(dtype));
  }
}

void SyntheticValues::fill(std::uint64_t key, std::uint64_t begin, std::span<std::byte> out) const {
  ensure(begin % 4 == 0 && out.size() % dtype_bytes(dtype_) == 0,
         "a first index that is a multiple of 4, and whole elements");
  const std::uint64_t state = key + begin / 4 * kWeyl;
  switch (dtype_bytes(dtype_)) {
    case 1:
      return fill_typed<std::uint8_t>(table_.data(), state, out);
    case 2:
      return fill_typed<std::uint16_t>(table_.data(), state, out);
    default:
      return fill_typed<std::uint32_t>(table_.data(), state, out);
  }
}

}  // namespace quern
