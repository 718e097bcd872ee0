#pragma once

#include "workers/comm/mpi_environment.h"

namespace quern::test {

/// The MPI of a test program that links quern_mpi_test_main. Its main() runs the tests on every
/// rank in step; rank 0 reports as usual, the others only their failures, and the program fails on
/// all ranks when it fails on one. Tests must make the same collective calls on every rank.
MpiEnvironment& mpi_environment();

}  // namespace quern::test
