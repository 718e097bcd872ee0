#pragma once

#include <cstdint>
#include <vector>

#include "pipeline/model/decoder_block.h"

namespace quern {

/// How many of a rank's states stay on the device, and what one takes.
struct RoundPlacement {
  std::int64_t on_device = 0;
  std::uint64_t state_bytes = 0;  ///< the most that a state is expected to hold
};

/// The states of a rank's micro-batches by round: the first ones stay on the device, the others lie
/// in host memory and are on the device only while their round is worked on. All transfers are
/// asynchronous and in the order of the device's work.
class RoundStates {
 public:
  RoundStates(Memory& memory, const RoundPlacement& placement)
      : memory_(memory), placement_(placement) {}

  std::int64_t rounds() const noexcept { return rounds_; }
  bool empty() const noexcept { return rounds_ == 0; }

  /// Takes the state of a round: the next one, or in place of the one that is there.
  void put(std::int64_t round, BlockState state);
  /// Forgets all states; keeps the host memory for those to come.
  void clear();

  /// The state, on the device until changed() or unchanged(); one round at a time.
  BlockState& at(std::int64_t round);
  /// Ends the work on a round: what it holds now is kept, or what it held before.
  void changed(std::int64_t round);
  void unchanged(std::int64_t round);

  /// A copy in host memory of the residual, which need not be on the device.
  HostTensor residual_on_host(std::int64_t round);

  void swap(RoundStates& other) noexcept;

 private:
  struct Part {
    DType dtype = DType::f32;
    Shape shape{0};
    std::size_t offset = 0;  ///< in the buffer, bytes
  };
  /// parts: the residual, then the inputs, where the state is in the buffer.
  struct Slot {
    BlockState state;
    std::vector<Part> parts;
    HostBuffer buffer;
    bool on_device = true;
  };

  Slot& slot(std::int64_t round);
  bool stays(std::int64_t round) const noexcept { return round < placement_.on_device; }
  void send(Slot& slot);
  void bring(Slot& slot);

  Memory& memory_;
  RoundPlacement placement_;
  std::vector<Slot> slots_;  ///< at least rounds_
  std::int64_t rounds_ = 0;
};

}  // namespace quern
