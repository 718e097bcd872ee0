#include "workers/comm/communicator.h"

#include <fmt/format.h>

#include <array>

#include "kernels/core/error.h"
#include "workers/comm/checks.h"
#include "workers/comm/host_communicator.h"

namespace quern {

void check_root(std::string_view collective, int root, int size) {
  if (root < 0 || root >= size) {
    throw InternalError(
        fmt::format("{}: root {} does not exist among {} ranks", collective, root, size));
  }
}

void check_summable(const ConstTensorView& tensor) {
  if (tensor.dtype != DType::i64) {
    throw ShapeError(fmt::format("reduce_sum: a {} tensor of shape {}, expected I64",
                                 dtype_name(tensor.dtype), tensor.shape.text()));
  }
}

std::string_view Call::name() const {
  constexpr std::array<std::string_view, 7> kNames{
      "barrier", "broadcast", "gather", "sum", "maximum", "tensor broadcast", "reduce_sum"};
  return kNames.at(static_cast<std::size_t>(kind));
}

std::string Call::text() const {
  return fmt::format("{} of {} bytes, root {}", name(), bytes, root);
}

std::vector<std::byte> broadcast_message(Communicator& communicator, std::vector<std::byte> message,
                                         int root) {
  std::uint64_t bytes = message.size();
  communicator.broadcast(std::as_writable_bytes(std::span(&bytes, 1)), root);
  message.resize(bytes);
  communicator.broadcast(std::span<std::byte>(message), root);
  return message;
}

}  // namespace quern
