#include "pipeline/model/source_tensor.h"

#include <algorithm>

namespace quern {

SourceTensor::SourceTensor(const WeightSource& source, const std::string& name)
    : stored_(source.stored(name)) {
  if (!stored_) computed_ = source.read(name);
}

void SourceTensor::read(std::size_t begin, std::span<std::byte> out) const {
  if (stored_) return stored_->read(begin, out);
  std::ranges::copy(std::span(computed_.bytes).subspan(begin, out.size()), out.begin());
}

void SourceTensor::read_elems(std::int64_t first, std::int64_t elems, HostTensor& block) const {
  if (block.dtype != dtype() || block.shape != Shape({elems})) block = HostTensor(dtype(), {elems});
  read(static_cast<std::size_t>(first) * dtype_bytes(dtype()), block.bytes);
}

}  // namespace quern
