#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

namespace quern::test {

/// Weighted k-means as SqueezeLLM runs it: greedy k-means++ start, then Lloyd's iterations.
struct Lloyd {
  std::vector<double> centroids;
  double objective = 0.0;  ///< sum weight (value - nearest centroid)^2
};

inline std::vector<double> plus_plus_start(const std::vector<float>& values,
                                           const std::vector<float>& weights, int count,
                                           std::mt19937& engine) {
  const std::size_t n = values.size();
  std::vector<double> mass(weights.begin(), weights.end());
  std::vector<double> nearest(n, std::numeric_limits<double>::infinity());
  std::vector<double> trial(n);
  std::vector<double> best(n);
  std::vector<double> centroids;
  const int trials = 2 + static_cast<int>(std::log(static_cast<double>(count)));
  while (centroids.size() < static_cast<std::size_t>(count)) {
    std::discrete_distribution<std::size_t> choose(mass.begin(), mass.end());
    double least = std::numeric_limits<double>::infinity();
    double chosen = 0.0;
    for (int t = 0; t < (centroids.empty() ? 1 : trials); ++t) {
      const double candidate = static_cast<double>(values[choose(engine)]);
      double sum = 0.0;
      for (std::size_t i = 0; i < n; ++i) {
        const double distance = static_cast<double>(values[i]) - candidate;
        trial[i] = std::min(nearest[i], distance * distance);
        sum += static_cast<double>(weights[i]) * trial[i];
      }
      if (sum >= least) continue;
      least = sum;
      chosen = candidate;
      best.swap(trial);
    }
    centroids.push_back(chosen);
    nearest.swap(best);
    if (!(least > 0.0)) break;
    for (std::size_t i = 0; i < n; ++i) mass[i] = static_cast<double>(weights[i]) * nearest[i];
  }
  std::sort(centroids.begin(), centroids.end());
  return centroids;
}

inline Lloyd lloyd(const std::vector<float>& values, const std::vector<float>& weights, int count,
                   unsigned seed, int iterations = 50) {
  std::mt19937 engine(seed);
  Lloyd result{plus_plus_start(values, weights, count, engine), 0.0};
  double before = std::numeric_limits<double>::infinity();
  for (int iteration = 0;; ++iteration) {
    auto& centroids = result.centroids;
    std::vector<double> mass(centroids.size());
    std::vector<double> moment(centroids.size());
    result.objective = 0.0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto value = static_cast<double>(values[i]);
      const auto weight = static_cast<double>(weights[i]);
      std::size_t nearest = 0;
      double least = std::numeric_limits<double>::infinity();
      for (std::size_t c = 0; c < centroids.size(); ++c) {
        const double distance = (value - centroids[c]) * (value - centroids[c]);
        nearest = distance < least ? c : nearest;
        least = std::min(least, distance);
      }
      result.objective += weight * least;
      mass[nearest] += weight;
      moment[nearest] += weight * value;
    }
    if (iteration == iterations || !(result.objective < before)) return result;
    before = result.objective;
    for (std::size_t c = 0; c < centroids.size(); ++c) {
      if (mass[c] > 0.0) centroids[c] = moment[c] / mass[c];
    }
  }
}

}  // namespace quern::test
