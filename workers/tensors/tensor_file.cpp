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

std::uint64_t bytes_of(const TensorSpec& spec) {
  return static_cast<std::uint64_t>(spec.shape.elems()) * dtype_bytes(spec.dtype);
}

TensorWriter::TensorWriter(std::vector<TensorSpec> specs)
    : specs_(sorted_by_name(std::move(specs))), begun_(specs_.size()) {}

void TensorWriter::write(std::string_view name, std::span<const std::byte> bytes) {
  const auto spec = std::ranges::lower_bound(specs_, name, {}, &TensorSpec::name);
  if (spec == specs_.end() || spec->name != name) {
    throw InternalError(
        fmt::format("tensor writer: tensor \"{}\" came, expected one of specs()", name));
  }
  if (bytes.size() != bytes_of(*spec)) {
    throw InternalError(
        fmt::format("tensor writer: tensor \"{}\" came with {} bytes, expected {} for {} {}", name,
                    bytes.size(), bytes_of(*spec), dtype_name(spec->dtype), spec->shape.text()));
  }
  const auto index = static_cast<std::size_t>(spec - specs_.begin());
  {
    const std::lock_guard lock(mutex_);
    if (begun_[index]) {
      throw InternalError(
          fmt::format("tensor writer: tensor \"{}\" came twice, expected once", name));
    }
    begun_[index] = true;
  }
  place(index, bytes);
}

std::string TensorWriter::commit() {
  const auto missing = std::ranges::find(begun_, false);
  if (missing != begun_.end()) {
    throw InternalError(
        fmt::format("tensor writer: commit before tensor \"{}\" was written",
                    specs_[static_cast<std::size_t>(missing - begun_.begin())].name));
  }
  return finish();
}

}  // namespace quern
