#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/codebook_solver.h"
#include "kernels/cpu/codebook_normal.h"
#include "kernels/cpu/codebook_table.h"
#include "kernels/cpu/row_lanes.h"

namespace quern {

/// What all rows of a refinement share.
struct RefineProblem {
  ConstTensorView weight;  ///< [N, K] plain float, finite
  const double* h;         ///< [K, K] symmetric
  CodebookSpec spec;
  int sweeps;
};

/// kLanes rows of a module side by side. One thread's working space.
class RefineTile {
 public:
  explicit RefineTile(const RefineProblem& problem);

  /// One round of LNQ: least squares on the tables, then sweeps of coordinate descent. Rows from
  /// first_row on of `from`, better ones into `to` and copies where there is none. errors [N] out:
  /// e H e of the rows of `to`. True if a row got better.
  bool improve(CodebookState& from, CodebookState& to, std::int64_t first_row, double* errors);

  /// gains [N, K] out: row_scale [N] times what e H e grows by if a weight is not exact but all
  /// others stay, at least 0. The codes of `to` = those of `from`, outliers with the best one.
  void find_gains(CodebookState& from, CodebookState& to, std::int64_t first_row,
                  const double* row_scale, float* gains);

 private:
  using LaneSums = std::array<double, static_cast<std::size_t>(kLanes)>;

  void load(CodebookState& from, std::int64_t first_row);
  void load_lane(const CodebookRow& row, std::int64_t lane);
  void store_lane(const CodebookRow& row, std::int64_t lane) const;
  void set_table(const float* table, std::int64_t lane);
  std::uint8_t nearest(double target, std::int64_t lane) const;
  double value_of(std::size_t at, std::int64_t lane) const;

  void multiply_errors();
  LaneSums quadratic_forms() const;
  void fit_tables();
  void fit_table(std::int64_t lane);
  void release_unfit_outliers(std::int64_t lane, float centroid);
  void restore_worse(CodebookState& from, const LaneSums& before);
  bool sweep();
  bool descend_block(std::int64_t begin, std::int64_t end);

  const RefineProblem& problem_;
  std::int64_t columns_;
  int count_;
  bool exactly_;
  std::int64_t first_row_ = 0;
  std::int64_t rows_ = 0;
  // [K, kLanes] each.
  std::vector<double> weights_;
  std::vector<double> errors_;
  std::vector<double> gradient_;  // H e
  std::vector<double> old_errors_;
  std::vector<double> old_gradient_;
  std::vector<std::uint8_t> codes_;
  std::vector<std::uint8_t> exact_;  // 1 at outliers, and in lanes without a row
  std::vector<double> changes_;      // [kBlock, kLanes]
  std::vector<double> values_;       // [count, kLanes]
  std::vector<double> bounds_;       // [count - 1, kLanes]
  std::vector<float> row_;           // [K]
  std::vector<std::uint16_t> bins_;  // [kLanes, normal_.bin_stride()]
  NormalMatrices normal_;
};

}  // namespace quern
