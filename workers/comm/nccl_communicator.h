#pragma once

#include <chrono>
#include <memory>

#include "kernels/memory.h"
#include "workers/comm/host_communicator.h"

namespace quern {

/// See MpiEnvironment::make_nccl_communicator. host: in working order; its collectives stay its
/// own.
std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<HostCommunicator> host,
                                                     Memory& memory, std::chrono::seconds deadline);

}  // namespace quern
