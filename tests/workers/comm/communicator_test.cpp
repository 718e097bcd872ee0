#include "workers/comm/communicator.h"

#include <gtest/gtest.h>

#include <chrono>

#include "tests/support/host_memory.h"
#include "tests/support/mpi_test_main.h"
#include "tests/workers/comm/communicator_contract.h"

namespace quern::test {
namespace {

using Addressing = HostMemory::Addressing;

constexpr std::size_t kSmallPiece = 64;
constexpr std::chrono::seconds kDeadline{60};

class Alone final : public Wiring {
 public:
  Memory& memory() override { return memory_; }
  std::unique_ptr<Communicator> connect() override { return make_self_communicator(); }

 private:
  HostMemory memory_;
};

class ByMpi final : public Wiring {
 public:
  ByMpi(Addressing addressing, std::size_t piece_bytes)
      : memory_(addressing), piece_bytes_(piece_bytes) {}
  Memory& memory() override { return memory_; }
  std::unique_ptr<Communicator> connect() override {
    return mpi_environment().make_communicator(memory_, kDeadline, piece_bytes_);
  }

 private:
  HostMemory memory_;
  std::size_t piece_bytes_;
};

Setting by_mpi(const char* name, Addressing addressing, std::size_t piece_bytes) {
  return {name, true, [=] { return std::make_unique<ByMpi>(addressing, piece_bytes); }};
}

INSTANTIATE_TEST_SUITE_P(
    All, CommunicatorContract,
    testing::Values(Setting{"self", false, [] { return std::make_unique<Alone>(); }},
                    by_mpi("mpi", Addressing::visible, MpiEnvironment::kPieceBytes),
                    by_mpi("mpi_pieces", Addressing::visible, kSmallPiece),
                    by_mpi("mpi_staged", Addressing::hidden, MpiEnvironment::kPieceBytes),
                    by_mpi("mpi_staged_pieces", Addressing::hidden, kSmallPiece)),
    name_of);

}  // namespace
}  // namespace quern::test
