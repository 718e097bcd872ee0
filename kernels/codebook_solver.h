#pragma once

#include <cstdint>
#include <optional>

#include "kernels/core/tensor.h"
#include "kernels/statistics_ops.h"

namespace quern {

/// A table of 2^bits centroids for every output row.
struct CodebookSpec {
  int bits = 4;  ///< 2..8
  DType table_dtype =
      DType::f32;  ///< f32 or f16: centroids are rounded to it before codes are chosen
};

/// A module on per-row codebooks with its outliers apart: W = table[n, codes[n, k]], plus vals
/// where an outlier is. The code at an outlier is the centroid nearest to 0.
struct CodebookTensor {
  Tensor codes;  ///< [N, K] u8
  Tensor table;  ///< [N, 2^bits] f32, ascending in each row, values of the table's type
  Tensor rows;   ///< [N + 1] i32, CSR row pointer
  Tensor cols;   ///< [nnz] i32, ascending in a row
  Tensor vals;   ///< [nnz] f32: table + vals gives the weight exactly
};

/// The rule of SqueezeLLM's paper for what is kept exactly.
struct OutlierRule {
  std::int64_t sensitive =
      0;  ///< weights with the largest F of the module; ties to the lower index
  /// Also every weight below q1 - range * (q3 - q1) or above q3 + range * (q3 - q1), q1 and q3 the
  /// quartiles of the module's weights; absent: none.
  std::optional<double> quartile_range;
};

/// Alternating refinement against a full H.
struct RefineOptions {
  int rounds = 4;                 ///< least squares on the tables, then sweeps on the codes
  int sweeps = 4;                 ///< passes of coordinate descent over the columns in a round
  bool rechoose_outliers = true;  ///< as many as before, where they gain most
  double damping = 0.0;           ///< of the mean diagonal of H, added to its diagonal
};

/// Non-uniform quantization of one device. F [N, K] f32 has no negative and no NaN entry. Results
/// do not depend on the thread count. ShapeError on views that do not fit.
class CodebookSolver {
 public:
  virtual ~CodebookSolver() = default;

  /// Rows of fisher that are all zero get column_energy [K] f64 (the diagonal of H) if it is given
  /// and not all zero, else the column sums of fisher, else ones; scaled to the least positive row
  /// sum of fisher, so that they do not take the outliers from rows that are known to matter.
  /// Returns how many rows got a column energy of either kind and how many ones. Synchronises.
  struct UninformedRows {
    std::int64_t from_energy = 0;
    std::int64_t from_ones = 0;
  };
  UninformedRows fill_uninformed_rows(TensorView fisher,
                                      std::optional<ConstTensorView> column_energy);

  /// counts [range_bins] i64 += by how many quartile ranges each weight lies beyond its quartile,
  /// in bins of range_step, the last one open; weights between the quartiles are not counted. Tells
  /// which OutlierRule::quartile_range meets a budget over many modules: bins b and above hold
  /// exactly the weights that quartile_range = b * range_step keeps. InputError on a weight that is
  /// not finite, as from choose_outliers with a quartile_range, cluster and cluster_jointly.
  void count_ranges(ConstTensorView weight, TensorView counts);
  static constexpr std::int64_t range_bins = 65536;
  static constexpr double range_step = 1.0 / 4096.0;

  /// mask [N, K] u8 out: 1 where the rule keeps the weight exactly.
  void choose_outliers(ConstTensorView weight, ConstTensorView fisher, const OutlierRule& rule,
                       TensorView mask);

  /// For each row the centroids of least sum_k F (w - c)^2 over the weights that are not masked:
  /// the exact optimum, by dynamic programming over merged equal weights (Gronlund et al. 2017).
  /// mask may be absent. In rows with outliers the centroid nearest 0 has 8 significant bits, and
  /// is 0 if it is below 2^-18 of the largest outlier, so that table + vals is exact; an outlier
  /// for which it is not (at most a bf16 weight 2^16 times, a f16 weight 2^13 times smaller than
  /// that centroid) is not kept apart. f32 weights, which may have no exact val, get the nearest
  /// one.
  CodebookTensor cluster(ConstTensorView weight, ConstTensorView fisher,
                         std::optional<ConstTensorView> mask, const CodebookSpec& spec);

  /// Alternates cluster() with keeping the `outliers` weights of largest F (w - q)^2 of the module
  /// until the objective stops falling; starts from `mask`. Never worse than cluster(mask) if the
  /// mask holds no more than `outliers`. mask [N, K] u8 in and out, 1 at the outliers of the
  /// result.
  CodebookTensor cluster_jointly(ConstTensorView weight, ConstTensorView fisher, TensorView mask,
                                 std::int64_t outliers, const CodebookSpec& spec);

  /// Lowers sum_n s_n (w - q)_n H (w - q)_n^T, s_n = sum_k F[n, k] / sum_k H_kk, from `start`:
  /// tables by least squares, codes by coordinate descent, outliers by their gain (LNQ, Kim et al.
  /// 2025, algorithm 2), H with options.damping. Never worse than start.
  CodebookTensor refine(ConstTensorView weight, ConstTensorView fisher, const GramView& gram,
                        const CodebookTensor& start, const CodebookSpec& spec,
                        const RefineOptions& options);

  /// out [N, K] f32 = the weights that codes, table and outliers stand for.
  void dequantize(const CodebookTensor& quantized, TensorView out);

  /// result [2] f64: sum F (w - q)^2 and sum F w^2. quantized [N, K] f32.
  void weighted_error(ConstTensorView weight, ConstTensorView quantized, ConstTensorView fisher,
                      TensorView result);

  /// counts [gain_bins] i64 and sums [gain_bins] f64 out: the entries of F (w - q)^2 by size; bin b
  /// holds [2^((b - gain_offset) / 4), 2^((b + 1 - gain_offset) / 4)), the first and the last bin
  /// what is below and above. Zero entries are not counted.
  void count_gains(ConstTensorView weight, ConstTensorView quantized, ConstTensorView fisher,
                   TensorView counts, TensorView sums);
  static constexpr std::int64_t gain_bins = 640;
  static constexpr std::int64_t gain_offset = 600;

 private:
  virtual UninformedRows do_fill_uninformed_rows(TensorView fisher,
                                                 std::optional<ConstTensorView> column_energy) = 0;
  virtual void do_count_ranges(ConstTensorView weight, TensorView counts) = 0;
  virtual void do_choose_outliers(ConstTensorView weight, ConstTensorView fisher,
                                  const OutlierRule& rule, TensorView mask) = 0;
  virtual CodebookTensor do_cluster(ConstTensorView weight, ConstTensorView fisher,
                                    std::optional<ConstTensorView> mask,
                                    const CodebookSpec& spec) = 0;
  virtual CodebookTensor do_cluster_jointly(ConstTensorView weight, ConstTensorView fisher,
                                            TensorView mask, std::int64_t outliers,
                                            const CodebookSpec& spec) = 0;
  virtual CodebookTensor do_refine(ConstTensorView weight, ConstTensorView fisher,
                                   const GramView& gram, const CodebookTensor& start,
                                   const CodebookSpec& spec, const RefineOptions& options) = 0;
  virtual void do_dequantize(const CodebookTensor& quantized, TensorView out) = 0;
  virtual void do_weighted_error(ConstTensorView weight, ConstTensorView quantized,
                                 ConstTensorView fisher, TensorView result) = 0;
  virtual void do_count_gains(ConstTensorView weight, ConstTensorView quantized,
                              ConstTensorView fisher, TensorView counts, TensorView sums) = 0;
};

}  // namespace quern
