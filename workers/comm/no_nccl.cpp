#include "kernels/core/error.h"
#include "workers/comm/mpi_environment.h"
#include "workers/comm/nccl_communicator.h"

namespace quern {

std::string nccl_library_version() {
  return {};
}

std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<HostCommunicator> /*host*/,
                                                     Memory& /*memory*/,
                                                     std::chrono::seconds /*deadline*/) {
  throw DeviceError("start NCCL: this program was built without it");
}

}  // namespace quern
