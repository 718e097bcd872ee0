#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

#include "workers/comm/communicator.h"

namespace quern {

class Memory;

/// "Open MPI v4.1.4"; may be called before MPI is initialised, and without it.
std::string mpi_library_version();

/// "NCCL 2.28.9"; empty in a build without NCCL.
std::string nccl_library_version();

/// MPI_Init_thread and MPI_Finalize as an object; at most one per process. No MPI type shows here.
/// Sets MPI_ERRORS_RETURN, without which no error check of ours would ever run. On destruction
/// during an exception it does not call MPI_Finalize (peers may be gone): call abort() instead.
class MpiEnvironment {
 public:
  /// Throws InternalError when MPI was initialised before, CommunicationError when MPI refuses.
  MpiEnvironment();
  ~MpiEnvironment();
  MpiEnvironment(const MpiEnvironment&) = delete;             // MPI is initialised once
  MpiEnvironment& operator=(const MpiEnvironment&) = delete;  // likewise

  int rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }
  /// Ranks of the job on this host, this one included: they share its cores.
  int ranks_on_host() const noexcept { return ranks_on_host_; }
  /// This rank among them, in the order of ranks.
  int local_rank() const noexcept { return local_rank_; }
  /// The first of them: names the host within the job.
  int first_rank_on_host() const noexcept { return first_rank_on_host_; }

  /// Ends every rank of the job with this exit code; standard streams are flushed first. Does not
  /// return, nor hang: after 10 s this process ends in any case. exit_code: not 0.
  [[noreturn]] void abort(int exit_code) noexcept;

  /// Bytes moved by one MPI call: fits a cache, and bounds the staging buffer.
  static constexpr std::size_t kPieceBytes = std::size_t{4} << 20;

  /// Collectives over all ranks; waits poll, so that a deadline can be kept: a rank that does not
  /// join a collective, or a piece that is not moved, for `deadline` is a CommunicationError.
  /// memory: where tensors live. piece_bytes: at least 8, at most INT_MAX. Collective.
  std::unique_ptr<Communicator> make_communicator(Memory& memory, std::chrono::seconds deadline,
                                                  std::size_t piece_bytes = kPieceBytes);

  /// The same with tensor collectives by NCCL on the stream of `memory`, a CUDA backend's, without
  /// a copy to the host; to be used by the thread that made the backend. No two ranks may share a
  /// GPU. Throws DeviceError on every rank if NCCL does not start on one, or the build has none:
  /// make_communicator still works then. Collective.
  std::unique_ptr<Communicator> make_nccl_communicator(Memory& memory,
                                                       std::chrono::seconds deadline);

 private:
  int rank_ = 0;
  int size_ = 1;
  int ranks_on_host_ = 1;
  int local_rank_ = 0;
  int first_rank_on_host_ = 0;
  int exceptions_ = 0;
};

}  // namespace quern
