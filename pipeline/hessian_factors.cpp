#include "pipeline/hessian_factors.h"

#include <utility>

namespace quern {

HessianFactors::HessianFactors(Solver& solver, const std::vector<std::vector<HessianTask>>& wanted)
    : solver_(solver) {
  for (const std::vector<HessianTask>& of_input : wanted) {
    counts_.push_back(of_input.size());
    open_.insert(open_.end(), of_input.begin(), of_input.end());
  }
}

std::vector<HessianFactor> HessianFactors::next() {
  std::vector<HessianFactor> factors;
  for (std::size_t left = counts_.front(); left > 0; --left) {
    if (made_.empty()) make_some();
    factors.push_back(std::move(made_.front()));
    made_.pop_front();
  }
  counts_.pop_front();
  return factors;
}

/// The next ones of one size.
void HessianFactors::make_some() {
  const auto columns_of = [](const HessianTask& task) { return task.gram.sums.shape[0]; };
  const std::int64_t columns = columns_of(open_.front());
  std::vector<HessianTask> batch;
  while (!open_.empty() && columns_of(open_.front()) == columns &&
         batch.size() < solver_.factors_at_once(columns)) {
    batch.push_back(open_.front());
    open_.pop_front();
  }
  for (HessianFactor& factor : solver_.factorise(batch)) made_.push_back(std::move(factor));
}

}  // namespace quern
