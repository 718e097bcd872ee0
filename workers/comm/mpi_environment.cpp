#include "workers/comm/mpi_environment.h"

#include <unistd.h>

#include <array>
#include <cstdio>
#include <exception>
#include <iostream>

#include "kernels/core/error.h"
#include "workers/comm/mpi_communicator.h"
#include "workers/comm/mpi_group.h"
#include "workers/comm/nccl_communicator.h"
#include "workers/comm/polling.h"

namespace quern {

std::string mpi_library_version() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  check_mpi(MPI_Get_library_version(text.data(), &length), "MPI_Get_library_version");
  const std::string version(text.data(), static_cast<std::size_t>(length));
  return version.substr(0, version.find_first_of(",\n"));
}

MpiEnvironment::MpiEnvironment() : exceptions_(std::uncaught_exceptions()) {
  int initialised = 0;
  check_mpi(MPI_Initialized(&initialised), "MPI_Initialized");
  ensure(initialised == 0, "one MpiEnvironment per process");
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI_Comm_size");
  MPI_Comm host = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &host),
            "MPI_Comm_split_type");
  check_mpi(MPI_Comm_size(host, &ranks_on_host_), "MPI_Comm_size");
  check_mpi(MPI_Comm_rank(host, &local_rank_), "MPI_Comm_rank");
  first_rank_on_host_ = rank_;
  check_mpi(MPI_Bcast(&first_rank_on_host_, 1, MPI_INT, 0, host), "MPI_Bcast");
  check_mpi(MPI_Comm_free(&host), "MPI_Comm_free");
}

MpiEnvironment::~MpiEnvironment() {
  if (std::uncaught_exceptions() == exceptions_) MPI_Finalize();
}

void MpiEnvironment::abort(int exit_code) noexcept {
  exit_after(std::chrono::seconds(10), exit_code);
  try {
    std::cout.flush();
  } catch (const std::exception&) {  // a closed pipe must not keep the job alive
  }
  std::fflush(nullptr);
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  ::_exit(exit_code);
}

std::unique_ptr<Communicator> MpiEnvironment::make_communicator(Memory& memory,
                                                                std::chrono::seconds deadline,
                                                                std::size_t piece_bytes) {
  return make_mpi_communicator(memory, deadline, piece_bytes);
}

std::unique_ptr<Communicator> MpiEnvironment::make_nccl_communicator(
    Memory& memory, std::chrono::seconds deadline) {
  return quern::make_nccl_communicator(make_mpi_communicator(memory, deadline, kPieceBytes), memory,
                                       deadline);
}

}  // namespace quern
