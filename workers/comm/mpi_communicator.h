#pragma once

#include <chrono>
#include <cstddef>
#include <memory>

#include "kernels/memory.h"
#include "workers/comm/communicator.h"

namespace quern {

/// See MpiEnvironment::make_communicator.
std::unique_ptr<Communicator> make_mpi_communicator(Memory& memory, std::chrono::seconds deadline,
                                                    std::size_t piece_bytes);

}  // namespace quern
