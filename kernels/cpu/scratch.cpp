#include "kernels/cpu/scratch.h"

namespace quern {

void Scratch::reserve(std::int64_t bytes) {
  if (bytes <= bytes_per_thread_) return;
  constexpr std::int64_t kGranule = 256;  // no two threads share a cache line
  const std::int64_t rounded = (bytes + kGranule - 1) / kGranule * kGranule;
  bytes_per_thread_ = 0;
  tensor_ = Tensor();
  tensor_ = memory_.allocate(DType::u8, {threads_, rounded});
  bytes_per_thread_ = rounded;
}

}  // namespace quern
