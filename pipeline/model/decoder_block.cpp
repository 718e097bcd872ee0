#include "pipeline/model/decoder_block.h"

#include "kernels/core/error.h"

namespace quern {
namespace {

Tensor clone_tensor(const Tensor& tensor, Memory& memory) {
  if (tensor.empty()) return {};
  Tensor copy = memory.allocate(tensor.dtype(), tensor.shape());
  memory.copy(tensor.view(), copy.view());
  return copy;
}

}  // namespace

ConstTensorView LayerWeights::weight(Role role) const {
  const auto found = tensors_.find({role, Part::weight});
  ensure(found != tensors_.end(), "the layer's weights to be loaded");
  return found->second.view();
}

std::optional<ConstTensorView> LayerWeights::bias(Role role) const {
  const auto found = tensors_.find({role, Part::bias});
  if (found == tensors_.end()) return std::nullopt;
  return found->second.view();
}

std::unique_ptr<DecoderBlock> make_block(const ModelGraph& graph, std::int64_t layer,
                                         ConstTensorView rope, Backend& backend) {
  return graph.architecture->make_block(graph.geometry, layer, rope, backend);
}

BlockState clone(const BlockState& state, Memory& memory) {
  BlockState copy;
  copy.residual = clone_tensor(state.residual, memory);
  for (const Tensor& input : state.inputs) copy.inputs.push_back(clone_tensor(input, memory));
  return copy;
}

}  // namespace quern
