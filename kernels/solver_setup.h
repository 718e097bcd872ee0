#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/memory.h"
#include "kernels/solver.h"

namespace quern {

/// Steps [begin, end) of a solve whose columns share a scale.
struct ColumnGroup {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int32_t index = 0;  ///< row of scales and zeros
};

/// The column rounded at each step, from diag H [K] in checkpoint order. Equal entries keep the
/// order of their index.
std::vector<std::int32_t> solve_order(std::span<const double> diagonal, ActOrder order,
                                      std::int64_t group_size);

/// Groups in the order of the solve: by position for ActOrder::full, by column / group_size
/// otherwise. Throws InternalError if the columns of a group do not follow one another.
std::vector<ColumnGroup> groups_in_order(std::span<const std::int32_t> order, ActOrder act_order,
                                         std::int64_t group_size);

/// What a factorisation has to know of diag H.
struct DiagonalSummary {
  double mean = 0.0;
  std::int64_t dead = 0;  ///< entries that are 0
};

/// overflow: that of the task's GramView. Throws as Solver::factorise does.
DiagonalSummary summarise_diagonal(const HessianTask& task, std::span<const double> diagonal,
                                   std::int64_t overflow);

/// The fraction to be tried after one that did not suffice, as Damping says. Throws InputError
/// where there is none.
double next_damping(const HessianTask& task, double fraction);

/// The result of rounding a module's rows in `groups` groups: the other rows are 0, those in range
/// and group_of [K] are to be written.
QuantizedTensor allocate_result(Memory& memory, const GridModule& module, std::int64_t groups);

/// Throws InputError: rows [first, end) of the module need a scale that float16 does not have.
[[noreturn]] void refuse_rows(const GridModule& module, std::int64_t first, std::int64_t end);

}  // namespace quern
