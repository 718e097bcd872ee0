#pragma once

#include <chrono>
#include <memory>

#include "workers/comm/communicator.h"

namespace quern {

/// MPI_Init_thread and MPI_Finalize as an object; at most one per process. No MPI type shows here.
/// Sets MPI_ERRORS_RETURN, without which no error check of ours would ever run. On destruction
/// during an exception it does not call MPI_Finalize (peers may be gone): call abort() instead.
class MpiEnvironment {
 public:
  MpiEnvironment();
  ~MpiEnvironment();
  MpiEnvironment(const MpiEnvironment&) = delete;             // MPI is initialised once
  MpiEnvironment& operator=(const MpiEnvironment&) = delete;  // likewise

  int rank() const noexcept;
  int size() const noexcept;

  /// Ends every rank of the job with this exit code. Does not return.
  [[noreturn]] void abort(int exit_code) noexcept;

  /// Collectives over all ranks; waits poll, so that a deadline can be kept: a collective that
  /// takes longer than `deadline` throws CommunicationError. memory: where tensors live.
  std::unique_ptr<Communicator> make_communicator(Memory& memory, std::chrono::seconds deadline);
};

}  // namespace quern
