#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/core/tensor.h"

namespace quern {

/// The ranks of one job. Every method but rank() and size() is a collective: all ranks call it in
/// the same order with the same sizes and root, and it blocks until this rank's part is done.
/// A single rank is a job like any other. Throws CommunicationError when a collective fails.
class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator() = default;
  Communicator(const Communicator&) = delete;             // collectives pair up by order of calls
  Communicator& operator=(const Communicator&) = delete;  // likewise

  virtual int rank() const noexcept = 0;
  virtual int size() const noexcept = 0;

  virtual void barrier() = 0;

  /// Host bytes of `root` into everybody's `bytes`; the same size on every rank.
  virtual void broadcast(std::span<std::byte> bytes, int root) = 0;
  /// Host bytes of any size of every rank, in rank order, at `root`; empty elsewhere.
  virtual std::vector<std::vector<std::byte>> gather(std::span<const std::byte> bytes,
                                                     int root) = 0;
  /// Element-wise sum / maximum over ranks of host integers, known to all.
  virtual void sum(std::span<std::int64_t> values) = 0;
  virtual void maximum(std::span<std::int64_t> values) = 0;

  /// As broadcast, on a tensor in the backend's memory. Synchronises the backend.
  virtual void broadcast(TensorView tensor, int root) = 0;
  /// Sum over ranks of an i64 tensor in the backend's memory; the result is at `root`, the others'
  /// contents are unspecified afterwards. Synchronises the backend. Sums must not overflow: the
  /// caller leaves headroom (see GramView).
  virtual void reduce_sum(TensorView tensor, int root) = 0;
};

/// Bytes of any size from `root` to all; what the others pass is ignored.
std::vector<std::byte> broadcast_message(Communicator& communicator, std::vector<std::byte> message,
                                         int root);

class Memory;

/// A job of one rank, without MPI.
std::unique_ptr<Communicator> make_self_communicator();

}  // namespace quern
