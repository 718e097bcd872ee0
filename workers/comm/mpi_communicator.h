#pragma once

#include <chrono>
#include <cstddef>
#include <memory>

#include "kernels/memory.h"
#include "workers/comm/host_communicator.h"

namespace quern {

/// See MpiEnvironment::make_communicator.
std::unique_ptr<HostCommunicator> make_mpi_communicator(Memory& memory,
                                                        std::chrono::seconds deadline,
                                                        std::size_t piece_bytes);

}  // namespace quern
