#include "kernels/cpu/kmeans_row.h"

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>

#include "kernels/cpu/codebook_kernels.h"

namespace quern {
namespace {

constexpr std::uint32_t kSign = 0x80000000U;
constexpr std::size_t kDigits = 4;
constexpr std::size_t kDigitValues = 256;

std::size_t digit_of(std::uint32_t bits, std::size_t digit) {
  return (bits >> (8 * digit)) & 0xFFU;
}

}  // namespace

void PointMerger::collect(std::span<const float> w, const float* fisher, const std::uint8_t* mask) {
  items_.resize(w.size() + 1);
  sorted_.resize(w.size() + 1);
  const auto gather = [&](auto importance) {
    std::size_t count = 0;
    for (std::size_t k = 0; k < w.size(); ++k) {
      const float f = importance(k);
      const auto bits = std::bit_cast<std::uint32_t>(w[k]);
      items_[count] = {bits == kSign ? 0U : bits, f};
      count += static_cast<std::size_t>(f > 0.0F && (mask == nullptr || mask[k] == 0));
    }
    return count;
  };
  count_ = gather([fisher](std::size_t k) { return fisher[k]; });
  if (count_ == 0) count_ = gather([](std::size_t) { return 1.0F; });
}

/// By bit pattern, stable: positive values ascending, then negative ones descending. Digits in
/// which all agree (the low half of bf16 values) cost nothing.
void PointMerger::sort() {
  std::array<std::array<std::uint32_t, kDigitValues>, kDigits> places{};
  for (std::size_t i = 0; i < count_; ++i) {
    for (std::size_t digit = 0; digit < kDigits; ++digit) {
      ++places[digit][digit_of(items_[i].bits, digit)];
    }
  }
  for (std::size_t digit = 0; digit < kDigits && count_ > 0; ++digit) {
    auto& place = places[digit];
    if (place[digit_of(items_[0].bits, digit)] == count_) continue;
    std::exclusive_scan(place.begin(), place.end(), place.begin(), 0U);
    for (std::size_t i = 0; i < count_; ++i) {
      sorted_[place[digit_of(items_[i].bits, digit)]++] = items_[i];
    }
    items_.swap(sorted_);
  }
}

const LinePoints& PointMerger::merge(std::span<const float> w, const float* fisher,
                                     const std::uint8_t* mask) {
  collect(w, fisher, mask);
  sort();
  auto& [values, weights] = points_;
  values.resize(count_ + 1);
  weights.resize(count_ + 1);
  std::size_t merged = 0;
  for (std::size_t i = 0; i < count_; ++i) {
    const bool fresh = i == 0 || items_[i].bits != items_[i - 1].bits;
    merged += fresh ? 1U : 0U;
    values[merged] = std::bit_cast<float>(items_[i].bits);
    weights[merged] = (fresh ? 0.0 : weights[merged]) + static_cast<double>(items_[i].fisher);
  }
  values.resize(merged + 1);
  weights.resize(merged + 1);
  values.erase(values.begin());
  weights.erase(weights.begin());
  const auto negative =
      std::find_if(values.begin(), values.end(), [](double value) { return value < 0.0; });
  const auto positives = negative - values.begin();
  std::reverse(negative, values.end());
  std::reverse(weights.begin() + positives, weights.end());
  std::rotate(values.begin(), negative, values.end());
  std::rotate(weights.begin(), weights.begin() + positives, weights.end());
  return points_;
}

void LineClustering::sum_prefixes(const LinePoints& points) {
  const std::size_t n = points.values.size();
  double mass = 0.0;
  double moment = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    mass += points.weights[i];
    moment += points.weights[i] * points.values[i];
  }
  // Around the mean the explained part is small against nothing it is compared with.
  const double centre = moment / mass;
  mass = moment = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    mass_[i] = mass;
    moment_[i] = moment;
    mass += points.weights[i];
    moment += points.weights[i] * (points.values[i] - centre);
  }
  std::fill(mass_.begin() + static_cast<std::ptrdiff_t>(n), mass_.end(), mass);
  std::fill(moment_.begin() + static_cast<std::ptrdiff_t>(n), moment_.end(), moment);
}

void LineClustering::trace_back(std::int64_t points, int intervals, std::int32_t last_split) {
  auto end = static_cast<std::int32_t>(points);
  std::int32_t begin = last_split;
  for (int layer = intervals - 2;; --layer) {
    if (end > begin) ends_.push_back(end);
    end = begin;
    if (layer < 0) break;
    begin = splits_[static_cast<std::size_t>(layer * stride_ + end)];
  }
  std::reverse(ends_.begin(), ends_.end());
}

std::span<const std::int32_t> LineClustering::solve(const LinePoints& points, int intervals) {
  const auto n = static_cast<std::int64_t>(points.values.size());
  ends_.clear();
  if (n <= intervals || intervals == 1) {
    for (std::int64_t i = intervals == 1 ? n : 1; i <= n; ++i) {
      ends_.push_back(static_cast<std::int32_t>(i));
    }
    return ends_;
  }
  stride_ = n + 1 + kStatePadding;
  const auto stride = static_cast<std::size_t>(stride_);
  for (auto* array : {&mass_, &moment_, &gain_, &before_}) array->resize(stride);
  splits_.resize(stride * static_cast<std::size_t>(intervals - 1));
  sum_prefixes(points);
  std::fill_n(splits_.begin(), stride, 0);
  before_[0] = 0.0;
  for (std::size_t j = 1; j < stride; ++j) before_[j] = moment_[j] * moment_[j] / mass_[j];
  for (int layer = 1; layer < intervals - 1; ++layer) {
    std::int32_t* split = splits_.data() + layer * stride_;
    solve_layer({mass_.data(), moment_.data(), before_.data(), split - stride_, n}, gain_.data(),
                split);
    gain_.swap(before_);
  }
  const std::int32_t* least = splits_.data() + (intervals - 2) * stride_;
  trace_back(n, intervals,
             solve_last_state({mass_.data(), moment_.data(), before_.data(), least, n}));
  return ends_;
}

}  // namespace quern
