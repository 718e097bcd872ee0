#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/core/dtype.h"

namespace quern {

/// How many standard deviations from the mean the farthest synthetic value lies.
double farthest_deviation();

/// Identifies the values of one tensor.
std::uint64_t synthetic_key(std::uint64_t seed, std::string_view tensor);

/// Random values of one type and distribution. An element depends on the key and its index alone:
/// 16 bits of a counter-based generator (SplitMix64 of the key and index / 4) choose one of the
/// 65536 equally likely quantiles of the normal distribution, all of them finite.
class SyntheticValues {
 public:
  /// dtype: f32, f16, bf16 or f8_e4m3.
  SyntheticValues(DType dtype, double mean, double deviation);

  DType dtype() const noexcept { return dtype_; }
  /// Elements from index `begin`, a multiple of 4, on. Thread-safe.
  void fill(std::uint64_t key, std::uint64_t begin, std::span<std::byte> out) const;

 private:
  DType dtype_;
  std::vector<std::byte> table_;  ///< the quantiles, in dtype
};

}  // namespace quern
