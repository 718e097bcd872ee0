#pragma once

#include "tests/e2e/run_folder.h"

namespace quern::test {

/// Rank 1 of two gets the signal in the middle of a layer: SIGSTOP, and it is silent, or SIGKILL,
/// for which mpirun ends the job by itself. Within 10 s it has ended with a message that names
/// rank, layer and operation, and left no process and no output; then it is resumed on one rank, to
/// the bytes of a run on one rank that was not disturbed.
void expect_lost_rank_to_cost_only_time(int signal, const Command& settings = {});

}  // namespace quern::test
