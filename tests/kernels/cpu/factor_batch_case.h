#pragma once

#include <gtest/gtest.h>

#include <span>
#include <vector>

#include "kernels/memory.h"
#include "kernels/solver.h"

namespace quern::test {

/// Factors made at once are, bit for bit, those made alone.
inline void expect_factors_as_alone(Memory& memory, Solver& solver,
                                    std::span<const HessianTask> tasks) {
  const auto bytes_of = [&](const Tensor& tensor) { return memory.to_host(tensor.view()).bytes; };
  const std::vector<HessianFactor> together = solver.factorise(tasks);
  ASSERT_EQ(together.size(), tasks.size());
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    SCOPED_TRACE(testing::Message() << "factor " << i << " of " << tasks.size());
    const HessianFactor alone = solver.factorise(tasks[i]);
    EXPECT_EQ(bytes_of(together[i].feedback), bytes_of(alone.feedback));
    EXPECT_EQ(bytes_of(together[i].diagonal), bytes_of(alone.diagonal));
    EXPECT_EQ(bytes_of(together[i].order), bytes_of(alone.order));
    EXPECT_EQ(bytes_of(together[i].weight), bytes_of(alone.weight));
    EXPECT_EQ(together[i].act_order, alone.act_order);
    EXPECT_EQ(together[i].damping_fraction, alone.damping_fraction);
    EXPECT_EQ(together[i].dead_columns, alone.dead_columns);
  }
}

}  // namespace quern::test
