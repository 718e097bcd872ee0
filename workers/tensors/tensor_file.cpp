#include "workers/tensors/tensor_file.h"

#include <fmt/format.h>

#include <utility>

#include "kernels/core/error.h"

namespace quern {

std::uint64_t bytes_of(const TensorSpec& spec) {
  return static_cast<std::uint64_t>(spec.shape.elems()) * dtype_bytes(spec.dtype);
}

const std::vector<TensorSpec>& TensorWriter::announce(std::span<const TensorSpec> specs) {
  const std::lock_guard lock(mutex_);
  for (const TensorSpec& spec : specs) {
    if (!by_name_.emplace(spec.name, Announced{specs_.size()}).second) {
      throw InternalError(
          fmt::format("tensor writer: tensor \"{}\" is announced twice, expected once", spec.name));
    }
    specs_.push_back(spec);
  }
  return specs_;
}

/// Where a tensor is that is about to be written.
std::size_t TensorWriter::begin(std::string_view name, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) {
    throw InternalError(
        fmt::format("tensor writer: tensor \"{}\" came, expected one of specs()", name));
  }
  const TensorSpec& spec = specs_[found->second.index];
  if (bytes != bytes_of(spec)) {
    throw InternalError(
        fmt::format("tensor writer: tensor \"{}\" came with {} bytes, expected {} for {} {}", name,
                    bytes, bytes_of(spec), dtype_name(spec.dtype), spec.shape.text()));
  }
  if (std::exchange(found->second.begun, true)) {
    throw InternalError(
        fmt::format("tensor writer: tensor \"{}\" came twice, expected once", name));
  }
  return found->second.index;
}

void TensorWriter::write(std::string_view name, std::span<const std::byte> bytes) {
  place(begin(name, bytes.size()), bytes);
}

std::string TensorWriter::commit() {
  for (const auto& [name, announced] : by_name_) {
    if (announced.begun) continue;
    throw InternalError(
        fmt::format("tensor writer: commit before tensor \"{}\" was written", name));
  }
  return finish();
}

}  // namespace quern
