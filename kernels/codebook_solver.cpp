#include "kernels/codebook_solver.h"

#include "kernels/operands.h"

namespace quern {
namespace {

void check_matrix(const char* operation, const ConstTensorView& weight) {
  expect_operands(is_float_matrix(weight) && weight.elems() > 0, operation,
                  "a matrix [N, K] of a plain float type", {{"weight", weight}});
}

void check_informed(const char* operation, const ConstTensorView& weight,
                    const ConstTensorView& fisher) {
  check_matrix(operation, weight);
  expect_operands(is_tensor(fisher, DType::f32, weight.shape), operation,
                  "weight [N, K] and fisher [N, K] f32", {{"weight", weight}, {"fisher", fisher}});
}

void check_mask(const char* operation, const ConstTensorView& weight, const ConstTensorView& mask) {
  expect_operands(is_tensor(mask, DType::u8, weight.shape), operation,
                  "weight [N, K] and mask [N, K] u8", {{"weight", weight}, {"mask", mask}});
}

void check_errors(const char* operation, const ConstTensorView& weight,
                  const ConstTensorView& quantized, const ConstTensorView& fisher) {
  check_informed(operation, weight, fisher);
  expect_operands(is_tensor(quantized, DType::f32, weight.shape), operation,
                  "weight [N, K] and quantized [N, K] f32",
                  {{"weight", weight}, {"quantized", quantized}});
}

void check_spec(const char* operation, const CodebookSpec& spec) {
  const bool known = spec.table_dtype == DType::f32 || spec.table_dtype == DType::f16;
  if (spec.bits >= 2 && spec.bits <= 8 && known) return;
  throw ShapeError(fmt::format(
      "{}: expected 2 to 8 bits and a table of F32 or F16, got {} bits and {}; this is a bug in "
      "Quern, please report it",
      operation, spec.bits, dtype_name(spec.table_dtype)));
}

void check_at_least_zero(const char* operation, const char* name, double value) {
  if (value >= 0.0) return;
  throw ShapeError(
      fmt::format("{}: expected {} of at least 0, got {}; this is a bug in Quern, please report it",
                  operation, name, value));
}

/// Codes [N, K] on tables of a power of two, with a sparse part.
void check_quantized(const char* operation, const CodebookTensor& quantized, const Shape& shape) {
  const Shape& table = quantized.table.shape();
  const std::int64_t count = table.rank() == 2 ? table[1] : 0;
  const std::int64_t outliers = quantized.cols.shape().elems();
  const bool fits = is_tensor(quantized.codes.view(), DType::u8, shape) && count >= 4 &&
                    count <= 256 &&
                    is_tensor(quantized.table.view(), DType::f32, {shape[0], count}) &&
                    is_tensor(quantized.rows.view(), DType::i32, {shape[0] + 1}) &&
                    is_tensor(quantized.cols.view(), DType::i32, {outliers}) &&
                    is_tensor(quantized.vals.view(), DType::f32, {outliers});
  expect_operands(fits, operation,
                  "codes [N, K] u8, table [N, 2^bits] f32, rows [N + 1] i32, cols [nnz] i32, vals "
                  "[nnz] f32 of a module of N rows",
                  {{"codes", quantized.codes.view()},
                   {"table", quantized.table.view()},
                   {"rows", quantized.rows.view()},
                   {"cols", quantized.cols.view()},
                   {"vals", quantized.vals.view()}});
}

void check_gram(const char* operation, const GramView& gram, std::int64_t columns) {
  expect_operands(
      is_gram(gram, columns), operation,
      "sums [K, K] i64, exponents [K] i32, overflow [1] i64 of the weight's K columns",
      {{"sums", gram.sums}, {"exponents", gram.exponents}, {"overflow", gram.overflow}});
}

}  // namespace

CodebookSolver::UninformedRows CodebookSolver::fill_uninformed_rows(
    TensorView fisher, std::optional<ConstTensorView> column_energy) {
  constexpr const char* kOperation = "fill_uninformed_rows";
  expect_operands(fisher.shape.rank() == 2 && fisher.dtype == DType::f32 && fisher.elems() > 0,
                  kOperation, "fisher [N, K] f32", {{"fisher", fisher}});
  if (column_energy) {
    expect_operands(is_tensor(*column_energy, DType::f64, {fisher.shape[1]}), kOperation,
                    "fisher [N, K] and column_energy [K] f64",
                    {{"fisher", fisher}, {"column_energy", *column_energy}});
  }
  return do_fill_uninformed_rows(fisher, column_energy);
}

void CodebookSolver::count_ranges(ConstTensorView weight, TensorView counts) {
  check_matrix("count_ranges", weight);
  expect_operands(is_tensor(counts, DType::i64, {range_bins}), "count_ranges",
                  "counts [range_bins] i64", {{"counts", counts}});
  do_count_ranges(weight, counts);
}

void CodebookSolver::choose_outliers(ConstTensorView weight, ConstTensorView fisher,
                                     const OutlierRule& rule, TensorView mask) {
  constexpr const char* kOperation = "choose_outliers";
  check_informed(kOperation, weight, fisher);
  check_mask(kOperation, weight, mask);
  check_at_least_zero(kOperation, "sensitive weights", static_cast<double>(rule.sensitive));
  check_at_least_zero(kOperation, "a quartile range", rule.quartile_range.value_or(0.0));
  do_choose_outliers(weight, fisher, rule, mask);
}

CodebookTensor CodebookSolver::cluster(ConstTensorView weight, ConstTensorView fisher,
                                       std::optional<ConstTensorView> mask,
                                       const CodebookSpec& spec) {
  check_informed("cluster", weight, fisher);
  if (mask) check_mask("cluster", weight, *mask);
  check_spec("cluster", spec);
  return do_cluster(weight, fisher, mask, spec);
}

CodebookTensor CodebookSolver::cluster_jointly(ConstTensorView weight, ConstTensorView fisher,
                                               TensorView mask, std::int64_t outliers,
                                               const CodebookSpec& spec) {
  check_informed("cluster_jointly", weight, fisher);
  check_mask("cluster_jointly", weight, mask);
  check_at_least_zero("cluster_jointly", "outliers", static_cast<double>(outliers));
  check_spec("cluster_jointly", spec);
  return do_cluster_jointly(weight, fisher, mask, outliers, spec);
}

CodebookTensor CodebookSolver::refine(ConstTensorView weight, ConstTensorView fisher,
                                      const GramView& gram, const CodebookTensor& start,
                                      const CodebookSpec& spec, const RefineOptions& options) {
  check_informed("refine", weight, fisher);
  check_spec("refine", spec);
  check_gram("refine", gram, weight.shape[1]);
  check_quantized("refine", start, weight.shape);
  const Tensor& table = start.table;
  expect_operands(table.shape()[1] == std::int64_t{1} << spec.bits, "refine",
                  "a start on tables of 2^bits", {{"table", table.view()}});
  check_at_least_zero("refine", "rounds", options.rounds);
  check_at_least_zero("refine", "sweeps", options.sweeps);
  return do_refine(weight, fisher, gram, start, spec, options);
}

void CodebookSolver::dequantize(const CodebookTensor& quantized, TensorView out) {
  expect_operands(out.shape.rank() == 2 && out.dtype == DType::f32, "dequantize", "out [N, K] f32",
                  {{"out", out}});
  check_quantized("dequantize", quantized, out.shape);
  do_dequantize(quantized, out);
}

void CodebookSolver::weighted_error(ConstTensorView weight, ConstTensorView quantized,
                                    ConstTensorView fisher, TensorView result) {
  check_errors("weighted_error", weight, quantized, fisher);
  expect_operands(is_tensor(result, DType::f64, {2}), "weighted_error", "result [2] f64",
                  {{"result", result}});
  do_weighted_error(weight, quantized, fisher, result);
}

void CodebookSolver::count_gains(ConstTensorView weight, ConstTensorView quantized,
                                 ConstTensorView fisher, TensorView counts, TensorView sums) {
  check_errors("count_gains", weight, quantized, fisher);
  expect_operands(
      is_tensor(counts, DType::i64, {gain_bins}) && is_tensor(sums, DType::f64, {gain_bins}),
      "count_gains", "counts [gain_bins] i64, sums [gain_bins] f64",
      {{"counts", counts}, {"sums", sums}});
  do_count_gains(weight, quantized, fisher, counts, sums);
}

}  // namespace quern
