#include "workers/tensors/tensor_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kernels/core/error.h"

namespace quern {
namespace {

std::vector<TensorSpec> sorted_by_name(std::vector<TensorSpec> specs) {
  std::ranges::sort(specs, {}, &TensorSpec::name);
  return specs;
}

}  // namespace

TensorWriter::TensorWriter(std::vector<TensorSpec> specs)
    : specs_(sorted_by_name(std::move(specs))) {}

void TensorWriter::write(std::string_view name, std::span<const std::byte> bytes) {
  if (next_ == specs_.size() || specs_[next_].name != name) {
    throw InternalError(fmt::format("tensor writer: tensor \"{}\" came, expected {}", name,
                                    next_ == specs_.size() ? "no more" : specs_[next_].name));
  }
  const TensorSpec& spec = specs_[next_];
  const std::size_t expected =
      static_cast<std::size_t>(spec.shape.elems()) * dtype_bytes(spec.dtype);
  if (bytes.size() != expected) {
    throw InternalError(
        fmt::format("tensor writer: tensor \"{}\" came with {} bytes, expected {} for {} {}", name,
                    bytes.size(), expected, dtype_name(spec.dtype), spec.shape.text()));
  }
  append(bytes);
  ++next_;
}

std::string TensorWriter::commit() {
  if (next_ != specs_.size()) {
    throw InternalError(
        fmt::format("tensor writer: commit before tensor \"{}\" was written", specs_[next_].name));
  }
  return finish();
}

}  // namespace quern
