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
/// A single rank is a job like any other. Throws InternalError, before any byte moves, when the
/// root does not exist or the ranks call different collectives. Throws CommunicationError when a
/// collective fails or a rank does not join it in time: every further call then throws it too, what
/// was passed may still change, and the job should end (MpiEnvironment::abort).
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

  /// As broadcast, on a tensor in the backend's memory; operations issued on the backend before
  /// see it as it was, those issued later as it becomes. May synchronise the backend.
  virtual void broadcast(TensorView tensor, int root) = 0;
  /// Sum over ranks of an i64 tensor in the backend's memory; the result is at `root`, the others'
  /// contents are unspecified afterwards. Ordered like broadcast. Sums must not overflow: the
  /// caller leaves headroom (see GramView). Throws ShapeError for another type.
  virtual void reduce_sum(TensorView tensor, int root) = 0;
};

/// Bytes of any size from `root` to all; what the others pass is ignored. A collective.
std::vector<std::byte> broadcast_message(Communicator& communicator, std::vector<std::byte> message,
                                         int root);

/// A job of one rank, without MPI.
std::unique_ptr<Communicator> make_self_communicator();

}  // namespace quern
