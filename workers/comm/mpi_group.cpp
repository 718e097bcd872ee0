#include "workers/comm/mpi_group.h"

#include <fmt/format.h>

#include <array>
#include <string>

#include "kernels/core/error.h"
#include "workers/comm/polling.h"

namespace quern {

void check_mpi(int code, std::string_view call, std::source_location where) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  if (MPI_Error_string(code, text.data(), &length) != MPI_SUCCESS) length = 0;
  throw CommunicationError(
      fmt::format("{} failed: {} (code {}, {}:{}); a rank or the network is lost, run again to "
                  "resume",
                  call, std::string_view(text.data(), static_cast<std::size_t>(length)), code,
                  where.file_name(), where.line()));
}

bool is_complete(MPI_Request& request, std::source_location where) {
  int complete = 0;
  check_mpi(MPI_Test(&request, &complete, MPI_STATUS_IGNORE), "MPI_Test", where);
  return complete != 0;
}

MpiGroup::MpiGroup() {
  constexpr Patience kSetup{.eager = std::chrono::microseconds(200),
                            .deadline = std::chrono::minutes(10)};
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Comm_idup(MPI_COMM_WORLD, &comm_, &request), "MPI_Comm_idup");
  if (!poll_until([&] { return is_complete(request); }, kSetup)) {
    throw CommunicationError(
        "setting up a communicator: not every rank joined within 10 minutes; look for the rank "
        "that did not start");
  }
  check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
}

MpiGroup::~MpiGroup() {
  if (comm_ != MPI_COMM_NULL) MPI_Comm_free(&comm_);
}

}  // namespace quern
