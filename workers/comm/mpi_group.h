#pragma once

#include <mpi.h>

#include <source_location>
#include <string_view>

namespace quern {

/// Throws CommunicationError with MPI's own text unless `code` is MPI_SUCCESS.
/// Internal to workers/comm, as is everything in this header.
void check_mpi(int code, std::string_view call,
               std::source_location where = std::source_location::current());

/// True when the request (or the null request) is complete.
bool is_complete(MPI_Request& request,
                 std::source_location where = std::source_location::current());

/// All ranks in a communicator of its own that returns errors instead of ending the job.
/// Collective to make; destroying it is local.
class MpiGroup {
 public:
  MpiGroup();
  ~MpiGroup();
  MpiGroup(const MpiGroup&) = delete;             // owns an MPI communicator
  MpiGroup& operator=(const MpiGroup&) = delete;  // likewise

  MPI_Comm comm() const noexcept { return comm_; }
  int rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }

  /// For a group with unfinished messages: freeing it could wait for peers that are gone.
  void abandon() noexcept { comm_ = MPI_COMM_NULL; }

 private:
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace quern
