#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "pipeline/model/model_graph.h"

namespace quern {

/// The tensors of one layer (or of the ends of the model) on the device, by role.
class LayerWeights {
 public:
  void set(Role role, Part part, Tensor tensor) { tensors_[{role, part}] = std::move(tensor); }
  bool has(Role role, Part part) const { return tensors_.contains({role, part}); }
  /// Throws InternalError if absent.
  ConstTensorView weight(Role role) const;
  std::optional<ConstTensorView> bias(Role role) const;

 private:
  std::map<std::pair<Role, Part>, Tensor> tensors_;
};

/// A micro-batch on its way through a layer: the residual stream and the inputs of the stage that
/// comes next. T = sequences * sequence_length tokens.
struct BlockState {
  Tensor residual;             ///< [T, hidden]
  std::vector<Tensor> inputs;  ///< one per LayerInput of the stage, [T, features]
};

/// A linear module as the backward pass meets it: T tokens of what it read, and the gradient of the
/// loss with respect to what it gave. Views, valid during the visit.
struct LinearGradient {
  Role role;
  ConstTensorView input;            ///< [T, K]
  ConstTensorView output_gradient;  ///< [T, N]
};
using VisitLinear = std::function<void(const LinearGradient&)>;

/// The computation of a decoder layer, cut where linear layers read their inputs, so that each
/// stage can be measured, quantized and then computed with the quantized weights.
class DecoderBlock {
 public:
  virtual ~DecoderBlock() = default;

  /// From the residual alone, the inputs of stage 0.
  virtual void begin(const LayerWeights& weights, BlockState& state) = 0;
  /// Applies the modules of `stage`: the inputs become those of stage + 1; after the last stage
  /// they are empty and the residual is the layer's output.
  virtual void advance(int stage, const LayerWeights& weights, BlockState& state) = 0;

  /// Backward through the whole layer, whose forward pass is recomputed from its input `residual`
  /// [T, hidden]. gradient [T, hidden]: of the loss, in at the layer's output, out at its input.
  /// Every linear module is visited once: the inputs from the last stage to the first, the modules
  /// of an input in their order.
  virtual void backward(const LayerWeights& weights, ConstTensorView residual, TensorView gradient,
                        const VisitLinear& visit) = 0;
};

/// The block of layer `layer`; keeps references. rope [S, head_dim] f32 covers the sequences.
std::unique_ptr<DecoderBlock> make_block(const ModelGraph& graph, std::int64_t layer,
                                         ConstTensorView rope, Backend& backend);

/// A copy of the state with tensors of its own.
BlockState clone(const BlockState& state, Memory& memory);

}  // namespace quern
