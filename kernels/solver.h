#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/core/tensor.h"
#include "kernels/statistics_ops.h"

namespace quern {

/// Order in which GPTQ rounds the columns of a module.
enum class ActOrder : std::uint8_t {
  none,         ///< as stored
  group_aware,  ///< groups by their largest H_kk, columns inside a group by H_kk; g_idx stays k /
                ///< gs
  full          ///< all columns by H_kk, descending; groups are formed in that order
};

/// How the scale of a group is found.
enum class ScaleSearch : std::uint8_t {
  absmax,   ///< the range just covers the weights
  weighted  ///< a multiple of that range, the one with the least error under H
};

/// Rows [begin, end) of a module; all of them by default.
struct RowRange {
  std::int64_t begin = 0;
  std::int64_t end = std::numeric_limits<std::int64_t>::max();

  std::int64_t count() const noexcept { return end - begin; }
};

/// A uniform grid: w = scale * (code - zero), code and zero in [0, 2^bits).
struct GridSpec {
  int bits = 4;                  ///< 2..8
  std::int64_t group_size = -1;  ///< columns that share a scale; -1: the whole row
  bool symmetric = true;         ///< zero = 2^(bits-1), scale = 2 absmax / (2^bits - 1)
  ScaleSearch scale_search = ScaleSearch::weighted;

  bool operator==(const GridSpec&) const = default;
};

/// Groups of a row of `columns` weights; the last one may be short.
std::int64_t group_count(std::int64_t columns, std::int64_t group_size) noexcept;

/// Damping of H before it is factorised: `fraction` of mean(diag H) is added to the diagonal and
/// doubled (at least from `fraction` = 1e-4 on) until the factorisation succeeds, every pivot above
/// the rounding error of its column. Columns with H_kk == 0 are cut off and get the mean.
struct Damping {
  double fraction = 0.01;
  double max_fraction = 10.0;
};

/// H of one input, to be factorised.
struct HessianTask {
  std::string_view name;  ///< for error messages: one of the modules that read the input
  GramView gram;
  ActOrder order = ActOrder::none;
  std::int64_t group_size = -1;  ///< of those modules; matters for ActOrder::group_aware only
  Damping damping = {};
};

/// H of one input, factorised for GPTQ and shared by the modules that read the input.
struct HessianFactor {
  Tensor feedback;  ///< [K, K] f64, upper: S_ij = R_ij / R_jj of H = R R^T in solve order
  Tensor diagonal;  ///< [K] f64: diag H without damping, checkpoint order
  Tensor order;     ///< [K] i32: column solved at step j
  Tensor weight;    ///< [K] f64: R_jj^2, the cost of an error at step j
  ActOrder act_order = ActOrder::none;  ///< full forms its groups in solve order
  double damping_fraction = 0.0;        ///< the one finally used
  std::int64_t dead_columns = 0;  ///< H_kk == 0: never active, their weights are left to rounding
};

/// A module on a uniform grid, checkpoint column order. Scales are float16 values, as stored.
struct QuantizedTensor {
  Tensor codes;     ///< [N, K] u8
  Tensor scales;    ///< [G, N] f16, finite and > 0
  Tensor zeros;     ///< [G, N] u8
  Tensor group_of;  ///< [K] i32: g_idx
};

/// A module to be put on a grid.
struct GridModule {
  std::string_view name;   ///< for error messages
  ConstTensorView weight;  ///< [N, K], any plain float type
  GridSpec grid;
  RowRange rows = {};  ///< to be solved, the others' codes, scales and zeros are 0
};

/// Solvers of one device. Synchronous where they return host values (factorise), otherwise
/// asynchronous. ShapeError on views that do not fit.
class Solver {
 public:
  virtual ~Solver() = default;

  /// H = R R^T with R upper triangular (the reversed Cholesky factor), after damping and ordering.
  /// Equal entries keep the order of their index. All H have one size; a factor does not depend on
  /// which others are made with it. Synchronises. Throws InputError naming the module when an H
  /// holds no finite positive diagonal entry, or when damping.max_fraction does not suffice;
  /// InternalError when gram.overflow is not 0.
  std::vector<HessianFactor> factorise(std::span<const HessianTask> tasks);
  HessianFactor factorise(const HessianTask& task) {
    return std::move(factorise(std::span(&task, 1)).front());
  }

  /// How many H of K columns are worth factorising at once.
  virtual std::size_t factors_at_once(std::int64_t /*columns*/) const noexcept { return 1; }

  /// GPTQ (Frantar et al. 2022) of modules that read one input, by its single factor: column j is
  /// rounded at w_j + sum_{i<j} (w_i - q_i) S_ij, in blocks of at most 128 columns. Results in the
  /// order of the modules. Scales are rounded to f16 before codes are chosen against them.
  /// A group's range is that of its weights as updated by the columns before it. The weighted
  /// search solves groups of up to 128 columns with each candidate and compares the errors that
  /// these really leave; larger groups are rounded plainly and weighted with R_jj^2.
  /// code = clamp(round(target / scale) + zero), ties to even. Throws InputError if a scale
  /// exceeds the f16 range (huge, infinite or NaN weights), InternalError if a group_aware order
  /// was made for another group size.
  /// A range of rows begins and ends at multiples of row_slice(N) or at N, or is empty: then a
  /// row's result is the same in any range and beside any other modules.
  std::vector<QuantizedTensor> gptq(std::span<const GridModule> modules,
                                    const HessianFactor& factor);

  /// Rows of a module of `rows` rows that are solved by one processor at least: a multiple of 64
  /// near an eighth of a large module, a quarter of any other.
  static std::int64_t row_slice(std::int64_t rows) noexcept;

  /// Round to nearest on the same grids, of modules that read one input. column_weight [K] f64
  /// weighs the scale search; ones if absent.
  std::vector<QuantizedTensor> round_to_nearest(std::span<const GridModule> modules,
                                                std::optional<ConstTensorView> column_weight);

  /// out [N, K] f32 = scales[g, n] * (codes[n, k] - zeros[g, n]), g = group_of[k], exactly.
  void dequantize(const QuantizedTensor& quantized, TensorView out);

  /// Row n of result [N, 2] f64: (w - q)_n H (w - q)_n^T and w_n H w_n^T, H without damping.
  /// quantized [N, K] f32. May be called for some rows of a module: where these begin and end at
  /// multiples of 64 or with the module, a row's result is the same beside any others. For reports:
  /// of a module's sums, a GPU gets three digits right.
  void quadratic_error(ConstTensorView weight, ConstTensorView quantized, const GramView& gram,
                       TensorView result);

  /// Packs codes [N, K] u8 into out [ceil(K bits / 32), N] i32: 32-bit words along K, a code
  /// starting at bit k * bits of its row's little-endian stream. Zero padded. Codes must be below
  /// 2^bits.
  void pack(ConstTensorView codes, int bits, TensorView out);
  /// The inverse of pack for K columns.
  void unpack(ConstTensorView words, int bits, TensorView codes);

 private:
  /// At least one H.
  virtual std::vector<HessianFactor> do_factorise(std::span<const HessianTask> tasks) = 0;
  /// At least one module; ranges lie within them.
  virtual std::vector<QuantizedTensor> do_gptq(std::span<const GridModule> modules,
                                               const HessianFactor& factor) = 0;
  virtual std::vector<QuantizedTensor> do_round_to_nearest(
      std::span<const GridModule> modules, std::optional<ConstTensorView> column_weight) = 0;
  virtual void do_dequantize(const QuantizedTensor& quantized, TensorView out) = 0;
  virtual void do_quadratic_error(ConstTensorView weight, ConstTensorView quantized,
                                  const GramView& gram, TensorView result) = 0;
  virtual void do_pack(ConstTensorView codes, int bits, TensorView out) = 0;
  virtual void do_unpack(ConstTensorView words, int bits, TensorView codes) = 0;
};

}  // namespace quern
