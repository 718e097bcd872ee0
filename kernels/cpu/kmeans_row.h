#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace quern {

/// Weighted points on a line, values ascending and distinct, weights > 0.
struct LinePoints {
  std::vector<double> values;
  std::vector<double> weights;
};

/// Sorts and merges the weights of one row. Keeps its buffers from row to row.
class PointMerger {
 public:
  /// The weights w[k] with fisher[k] > 0 and no mask (mask may be null); equal weights are merged,
  /// their F summed in the order of k. If no F is positive every weight counts as 1. The result
  /// lives until the next call. w must be finite.
  const LinePoints& merge(std::span<const float> w, const float* fisher, const std::uint8_t* mask);

 private:
  struct Item {
    std::uint32_t bits;
    float fisher;
  };
  void collect(std::span<const float> w, const float* fisher, const std::uint8_t* mask);
  void sort();

  std::vector<Item> items_;
  std::vector<Item> sorted_;
  std::size_t count_ = 0;
  LinePoints points_;
};

/// Exact weighted k-means on a line: the partition into at most k intervals of least
/// sum weight (value - mean of its interval)^2. Dynamic programming over concave Monge costs
/// (Gronlund et al. 2017) in float64. Keeps its buffers.
class LineClustering {
 public:
  /// ends[c]: one past the last point of interval c; as many as there are non-empty intervals.
  /// Lives until the next call.
  std::span<const std::int32_t> solve(const LinePoints& points, int intervals);

 private:
  void sum_prefixes(const LinePoints& points);
  void trace_back(std::int64_t points, int intervals, std::int32_t last_split);

  std::vector<double> mass_;
  std::vector<double> moment_;
  std::vector<double> gain_;
  std::vector<double> before_;
  std::vector<std::int32_t> splits_;  // [intervals - 1, stride]
  std::vector<std::int32_t> ends_;
  std::int64_t stride_ = 0;
};

}  // namespace quern
