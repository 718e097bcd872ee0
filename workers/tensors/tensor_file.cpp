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

TensorWriter::Announced& TensorWriter::find(std::string_view name) {
  const auto found = by_name_.find(name);
  if (found != by_name_.end()) return found->second;
  throw InternalError(
      fmt::format("tensor writer: tensor \"{}\" came, expected one of specs()", name));
}

/// How far a tensor was before these bytes, which are its whole data or the next of them.
TensorWriter::Announced TensorWriter::advance(std::string_view name, std::uint64_t bytes,
                                              bool whole) {
  const std::lock_guard lock(mutex_);
  Announced& tensor = find(name);
  const TensorSpec& spec = specs_[tensor.index];
  const std::uint64_t size = bytes_of(spec);
  if (whole ? bytes != size : bytes > size - tensor.written) {
    throw InternalError(
        fmt::format("tensor writer: tensor \"{}\" came with {} bytes, expected {} for {} {}", name,
                    tensor.written + bytes, size, dtype_name(spec.dtype), spec.shape.text()));
  }
  if (whole && tensor.begun) {
    throw InternalError(
        fmt::format("tensor writer: tensor \"{}\" came twice, expected once", name));
  }
  const Announced before = tensor;
  tensor.begun = true;
  tensor.written += bytes;
  return before;
}

void TensorWriter::write(std::string_view name, std::span<const std::byte> bytes) {
  place(advance(name, bytes.size(), true).index, 0, bytes);
}

void TensorWriter::append(std::string_view name, std::span<const std::byte> piece) {
  const Announced before = advance(name, piece.size(), false);
  place(before.index, before.written, piece);
}

std::string TensorWriter::commit() {
  for (const auto& [name, tensor] : by_name_) {
    if (tensor.begun && tensor.written == bytes_of(specs_[tensor.index])) continue;
    throw InternalError(
        fmt::format("tensor writer: commit before tensor \"{}\" was written", name));
  }
  return finish();
}

}  // namespace quern
