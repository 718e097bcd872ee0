#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/memory.h"

namespace quern {

/// Host buffers that the device writes at full speed, used again and again: locking their pages
/// takes longer than filling them. Any thread.
class LandingBuffers {
 public:
  /// memory: outlives this object.
  explicit LandingBuffers(Memory& memory) : memory_(memory) {}

  /// At least `bytes`. Throws MemoryError when the host is full.
  HostBuffer take(std::size_t bytes);
  void give_back(HostBuffer buffer);

 private:
  Memory& memory_;
  std::mutex mutex_;
  std::vector<HostBuffer> free_;
};

/// Arrays on their way from the device into host tensors: the transfers hold nobody, and what takes
/// time on the host is left to the thread that calls unload().
class Landing {
 public:
  /// buffers: outlive this object.
  explicit Landing(LandingBuffers& buffers) : buffers_(&buffers) {}
  ~Landing();
  Landing(Landing&&) noexcept = default;
  Landing& operator=(Landing&&) = delete;  // moved once, to the thread that unloads
  Landing(const Landing&) = delete;        // owns its buffer
  Landing& operator=(const Landing&) = delete;

  /// Announces an array; `to` must stay where it is until unload().
  void add(ConstTensorView from, HostTensor& to) { arrays_.push_back({from, &to}); }
  /// Issues the transfers; the device arrays must live until Memory::synchronize().
  void start(Memory& memory);
  /// After Memory::synchronize(), any thread: fills the host tensors and gives the buffer back.
  void unload();

 private:
  struct Array {
    ConstTensorView from;
    HostTensor* to;
  };

  std::vector<std::size_t> begins() const;
  void release();

  LandingBuffers* buffers_;
  std::vector<Array> arrays_;
  HostBuffer buffer_;
};

}  // namespace quern
