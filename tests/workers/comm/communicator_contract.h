#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>

#include "kernels/memory.h"
#include "workers/comm/communicator.h"

namespace quern::test {

/// Where the tensors of a communicator under test live, and how its ranks are connected.
class Wiring {
 public:
  virtual ~Wiring() = default;
  virtual Memory& memory() = 0;
  /// A collective.
  virtual std::unique_ptr<Communicator> connect() = 0;
};

struct Setting {
  const char* name;
  bool all_ranks;  ///< of the MPI job; else this one alone
  std::function<std::unique_ptr<Wiring>()> wire;
  /// Why this machine cannot run it, the same on every rank; empty: it can.
  std::function<std::string()> obstacle = [] { return std::string(); };
};

inline std::string name_of(const testing::TestParamInfo<Setting>& setting) {
  return setting.param.name;
}

/// What every communicator does; programs instantiate it for those they link.
class CommunicatorContract : public testing::TestWithParam<Setting> {
 protected:
  void SetUp() override {
    if (const std::string obstacle = GetParam().obstacle(); !obstacle.empty()) {
      GTEST_SKIP() << obstacle;
    }
    wiring_ = GetParam().wire();
    communicator_ = connect();
  }
  std::unique_ptr<Communicator> connect() { return wiring_->connect(); }
  Memory& memory() { return wiring_->memory(); }
  Communicator& ranks() { return *communicator_; }
  std::int64_t rank() const { return communicator_->rank(); }
  std::int64_t size() const { return communicator_->size(); }

 private:
  std::unique_ptr<Wiring> wiring_;
  std::unique_ptr<Communicator> communicator_;
};

}  // namespace quern::test
