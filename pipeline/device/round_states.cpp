#include "pipeline/device/round_states.h"

#include <algorithm>

#include "kernels/core/error.h"

namespace quern {
namespace {

constexpr std::size_t kAlignment = 256;

std::size_t aligned(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

std::vector<Tensor*> tensors_of(BlockState& state) {
  std::vector<Tensor*> tensors{&state.residual};
  for (Tensor& input : state.inputs) tensors.push_back(&input);
  return tensors;
}

}  // namespace

RoundStates::Slot& RoundStates::slot(std::int64_t round) {
  ensure(round >= 0 && round < rounds_, "the state of a round that was put");
  return slots_[static_cast<std::size_t>(round)];
}

void RoundStates::put(std::int64_t round, BlockState state) {
  ensure(round <= rounds_, "states put in order of their rounds");
  rounds_ = std::max(rounds_, round + 1);
  slots_.resize(std::max(slots_.size(), static_cast<std::size_t>(rounds_)));
  Slot& taken = slot(round);
  taken.state = std::move(state);
  taken.on_device = true;
  changed(round);
}

void RoundStates::clear() {
  for (Slot& slot : slots_) slot.state = {};
  rounds_ = 0;
}

void RoundStates::swap(RoundStates& other) noexcept {
  slots_.swap(other.slots_);
  std::swap(rounds_, other.rounds_);
}

BlockState& RoundStates::at(std::int64_t round) {
  Slot& wanted = slot(round);
  if (!wanted.on_device) bring(wanted);
  return wanted.state;
}

void RoundStates::changed(std::int64_t round) {
  if (!stays(round)) send(slot(round));
}

void RoundStates::unchanged(std::int64_t round) {
  if (stays(round)) return;
  slot(round).state = {};
  slot(round).on_device = false;
}

void RoundStates::send(Slot& slot) {
  slot.parts.clear();
  std::size_t bytes = 0;
  for (const Tensor* tensor : tensors_of(slot.state)) {
    slot.parts.push_back({tensor->dtype(), tensor->shape(), bytes});
    bytes += aligned(tensor->view().bytes());
  }
  if (slot.buffer.size() < bytes) {
    memory_.synchronize();  // the old buffer may still be read
    slot.buffer = {};
    slot.buffer = memory_.allocate_host(std::max<std::size_t>(bytes, placement_.state_bytes));
  }
  for (std::size_t i = 0; Tensor * tensor : tensors_of(slot.state)) {
    const ConstTensorView view = std::as_const(*tensor).view();
    memory_.download(view,
                     slot.buffer.first(slot.parts[i++].offset + view.bytes()).last(view.bytes()));
  }
  slot.state = {};
  slot.on_device = false;
}

void RoundStates::bring(Slot& slot) {
  slot.state = {};
  slot.state.inputs.resize(slot.parts.size() - 1);
  for (std::size_t i = 0; Tensor * tensor : tensors_of(slot.state)) {
    const Part& part = slot.parts[i++];
    *tensor = memory_.allocate(part.dtype, part.shape);
    const TensorView view = tensor->view();
    memory_.upload(slot.buffer.first(part.offset + view.bytes()).last(view.bytes()), view);
  }
  slot.on_device = true;
}

HostTensor RoundStates::residual_on_host(std::int64_t round) {
  Slot& wanted = slot(round);
  if (wanted.on_device) return memory_.to_host(std::as_const(wanted.state.residual).view());
  const Part& part = wanted.parts.front();
  HostTensor host(part.dtype, part.shape);
  memory_.synchronize();
  std::ranges::copy(wanted.buffer.first(host.bytes.size()), host.bytes.begin());
  return host;
}

}  // namespace quern
