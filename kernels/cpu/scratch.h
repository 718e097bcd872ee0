#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/memory.h"

namespace quern {

/// Working space that every thread of an operation has for itself; it grows and is kept, so that
/// a steady state allocates nothing.
class Scratch {
 public:
  Scratch(Memory& memory, int threads) : memory_(memory), threads_(threads) {}

  /// At least `bytes` for each thread; what earlier calls returned is gone.
  void reserve(std::int64_t bytes);

  template <typename T>
  T* of_thread(int thread) noexcept {
    return reinterpret_cast<T*>(tensor_.view().data + thread * bytes_per_thread_);
  }

 private:
  Memory& memory_;
  int threads_;
  std::int64_t bytes_per_thread_ = 0;
  Tensor tensor_;
};

}  // namespace quern
