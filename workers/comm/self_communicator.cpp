#include "workers/comm/checks.h"
#include "workers/comm/communicator.h"

namespace quern {
namespace {

class SelfCommunicator final : public Communicator {
 public:
  int rank() const noexcept override { return 0; }
  int size() const noexcept override { return 1; }

  void barrier() override {}
  void broadcast(std::span<std::byte>, int root) override { check_root("broadcast", root, 1); }
  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> bytes, int root) override {
    check_root("gather", root, 1);
    return {std::vector<std::byte>(bytes.begin(), bytes.end())};
  }
  void sum(std::span<std::int64_t>) override {}
  void maximum(std::span<std::int64_t>) override {}
  void broadcast(TensorView, int root) override { check_root("broadcast", root, 1); }
  void reduce_sum(TensorView tensor, int root) override {
    check_root("reduce_sum", root, 1);
    check_summable(tensor);
  }
};

}  // namespace

std::unique_ptr<Communicator> make_self_communicator() {
  return std::make_unique<SelfCommunicator>();
}

}  // namespace quern
