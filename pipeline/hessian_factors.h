#pragma once

#include <deque>
#include <vector>

#include "kernels/solver.h"

namespace quern {

/// Factors of H for inputs that are solved one after another. Those of one size are made several at
/// once where that saves time, see Solver::factors_at_once().
class HessianFactors {
 public:
  /// wanted: of each input, in the order in which they are solved. What the tasks view is there
  /// until their factors are made.
  HessianFactors(Solver& solver, const std::vector<std::vector<HessianTask>>& wanted);

  /// Those of the next input. Throws as Solver::factorise does, also because of a later input.
  std::vector<HessianFactor> next();

 private:
  void make_some();

  Solver& solver_;
  std::deque<std::size_t> counts_;  ///< of the inputs to come
  std::deque<HessianTask> open_;    ///< of factors that are not made yet
  std::deque<HessianFactor> made_;
};

}  // namespace quern
