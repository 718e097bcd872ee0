#include "kernels/solver_setup.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/core/error.h"

namespace quern {

std::vector<std::int32_t> solve_order(std::span<const double> diagonal, ActOrder order,
                                      std::int64_t group_size) {
  std::vector<std::int32_t> columns(diagonal.size());
  std::iota(columns.begin(), columns.end(), 0);
  const auto larger = [&](std::int32_t a, std::int32_t b) {
    return diagonal[static_cast<std::size_t>(a)] > diagonal[static_cast<std::size_t>(b)];
  };
  if (order == ActOrder::none) return columns;
  const auto count = static_cast<std::int64_t>(diagonal.size());
  if (order == ActOrder::full || group_size < 1 || group_size >= count) {
    std::stable_sort(columns.begin(), columns.end(), larger);
    return columns;
  }
  std::vector<std::vector<std::int32_t>> groups;
  for (std::int64_t begin = 0; begin < count; begin += group_size) {
    groups.emplace_back(columns.begin() + begin,
                        columns.begin() + std::min(begin + group_size, count));
    std::stable_sort(groups.back().begin(), groups.back().end(), larger);
  }
  std::stable_sort(groups.begin(), groups.end(),
                   [&](const auto& a, const auto& b) { return larger(a.front(), b.front()); });
  columns.clear();
  for (const auto& group : groups) columns.insert(columns.end(), group.begin(), group.end());
  return columns;
}

std::vector<ColumnGroup> groups_in_order(std::span<const std::int32_t> order, ActOrder act_order,
                                         std::int64_t group_size) {
  const auto columns = static_cast<std::int64_t>(order.size());
  const std::int64_t size = group_size < 1 ? columns : group_size;
  std::vector<ColumnGroup> groups;
  for (std::int64_t begin = 0; begin < columns;) {
    const std::int64_t place =
        act_order == ActOrder::full ? begin : order[static_cast<std::size_t>(begin)];
    const std::int64_t index = place / size;
    const std::int64_t end = begin + std::min(size, columns - index * size);
    for (std::int64_t j = begin; j < end && act_order != ActOrder::full; ++j) {
      ensure(j < columns && order[static_cast<std::size_t>(j)] / size == index,
             "a solve order made for the grid's group size");
    }
    groups.push_back({begin, end, static_cast<std::int32_t>(index)});
    begin = end;
  }
  return groups;
}

DiagonalSummary summarise_diagonal(const HessianTask& task, std::span<const double> diagonal,
                                   std::int64_t overflow) {
  if (overflow != 0) {
    throw InternalError(fmt::format(
        "module '{}': H holds contributions that overflowed its exponents; it must be accumulated "
        "again with smaller ones; this is a bug in Quern, please report it",
        task.name));
  }
  DiagonalSummary summary;
  double sum = 0.0;
  for (std::size_t k = 0; k < diagonal.size(); ++k) {
    const double value = diagonal[k];
    if (!std::isfinite(value) || value < 0.0) {
      throw InputError(fmt::format(
          "module '{0}': H[{1}, {1}] of its input is {2}; expected a finite value >= 0. The "
          "layer's activations are not finite: check the model and the calibration text",
          task.name, k, value));
    }
    summary.dead += value == 0.0 ? 1 : 0;
    sum += value;
  }
  summary.mean = sum / static_cast<double>(diagonal.size());
  if (!(summary.mean > 0.0) || !std::isfinite(summary.mean)) {
    throw InputError(fmt::format(
        "module '{}': the diagonal of H holds no finite positive entry: every activation of its "
        "input was zero or too large; check the model and the calibration text",
        task.name));
  }
  return summary;
}

double next_damping(const HessianTask& task, double fraction) {
  constexpr double kFirstGrowth = 1e-4;
  const double next = std::max(2.0 * fraction, kFirstGrowth);
  if (next <= task.damping.max_fraction) return next;
  throw InputError(fmt::format(
      "module '{}': H is not positive definite even with {} of its mean diagonal added; the "
      "statistics are damaged: check the model, or use more calibration text",
      task.name, task.damping.max_fraction));
}

QuantizedTensor allocate_result(Memory& memory, const GridModule& module, std::int64_t groups) {
  const Shape& shape = module.weight.shape;
  QuantizedTensor result{
      memory.allocate(DType::u8, shape), memory.allocate(DType::f16, {groups, shape[0]}),
      memory.allocate(DType::u8, {groups, shape[0]}), memory.allocate(DType::i32, {shape[1]})};
  if (module.rows.count() == shape[0]) return result;
  for (Tensor* part : {&result.codes, &result.scales, &result.zeros}) memory.clear(part->view());
  return result;
}

void refuse_rows(const GridModule& module, std::int64_t first, std::int64_t end) {
  throw InputError(fmt::format(
      "module '{}': output rows {} to {} need a scale beyond float16 (65504): their weights are "
      "huge, infinite or NaN; check the checkpoint, or skip this module with a rule",
      module.name, first, std::min(end, module.weight.shape[0]) - 1));
}

}  // namespace quern
