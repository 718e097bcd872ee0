#include "tests/support/mpi_test_main.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <span>

#include "tests/support/host_memory.h"

namespace quern::test {
namespace {

/// Prints nothing but failures, each with the rank it happened on.
class FailurePrinter final : public testing::EmptyTestEventListener {
 public:
  explicit FailurePrinter(int rank) : rank_(rank) {}

 private:
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    const char* file = result.file_name() == nullptr ? "(unknown)" : result.file_name();
    std::fprintf(stderr, "[rank %d] %s:%d: %s\n", rank_, file, result.line_number(),
                 result.message());
  }

  int rank_;
};

int run_all_tests(MpiEnvironment& environment) {
  if (environment.rank() != 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailurePrinter(environment.rank()));
  }
  std::int64_t failed = RUN_ALL_TESTS();
  HostMemory memory;
  environment.make_communicator(memory, std::chrono::seconds(60))->maximum(std::span(&failed, 1));
  return static_cast<int>(failed);
}

}  // namespace

MpiEnvironment& mpi_environment() {
  static MpiEnvironment environment;
  return environment;
}

}  // namespace quern::test

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  quern::MpiEnvironment& environment = quern::test::mpi_environment();
  try {
    return quern::test::run_all_tests(environment);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "[rank %d] the ranks lost each other: %s\n", environment.rank(),
                 error.what());
    environment.abort(1);
  }
}
