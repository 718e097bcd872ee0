#pragma once

#include <cstdint>
#include <vector>

#include "kernels/core/tensor.h"
#include "pipeline/model/decoder_block.h"
#include "workers/session.h"

namespace quern {

/// Token windows cut into micro-batches: the atoms of all data-parallel work, fixed by
/// configuration. Micro-batch m belongs to rank m mod P.
class MicroBatches {
 public:
  /// ids [count, S] i32; size: sequences per micro-batch, the last one may be short.
  MicroBatches(HostTensor ids, std::int64_t size);

  std::int64_t count() const noexcept { return count_; }
  std::int64_t sequence_length() const { return ids_.shape[1]; }
  std::int64_t tokens() const noexcept { return ids_.shape.elems(); }
  /// Token ids of micro-batch m, its sequences one after the other.
  std::span<const std::int32_t> ids(std::int64_t m) const;

  /// Rounds needed so that every rank does one micro-batch per round, and the micro-batch of
  /// `rank` in `round`, or -1 if it has none left.
  std::int64_t rounds(int ranks) const noexcept { return (count_ + ranks - 1) / ranks; }
  std::int64_t of_round(std::int64_t round, int rank, int ranks) const noexcept;

 private:
  HostTensor ids_;
  std::int64_t size_;
  std::int64_t count_;
};

/// The ends of a model around its layers: embedding in, logits and loss out.
class Forward {
 public:
  Forward(Session& session, const ModelGraph& graph, std::int64_t sequence_length);

  /// cos and sin of the sequence's positions, [S, head_dim] f32 on the device.
  ConstTensorView rope() const { return rope_.view(); }

  /// The residual stream [T, hidden] of a micro-batch. ends: weights with the embedding.
  Tensor embed(const LayerWeights& ends, std::span<const std::int32_t> ids);

  /// Final norm of the residual, [T, hidden]: the input of the head.
  Tensor head_input(const LayerWeights& ends, ConstTensorView residual);

  /// Negative log-likelihood of every token after the first of its sequence, given the ones before:
  /// [sequences * (S - 1)] float32 on the host. The head is applied to few rows at a time.
  std::vector<float> token_nll(const LayerWeights& ends, ConstTensorView residual,
                               std::span<const std::int32_t> ids);

  /// Gradient [T, hidden] with respect to `residual` of the sum over the sequences of their mean
  /// negative log-likelihood. The head is applied to few rows at a time.
  Tensor loss_gradient(const LayerWeights& ends, ConstTensorView residual,
                       std::span<const std::int32_t> ids);

  /// Tensors of the ends that embed() or the head need.
  std::vector<TensorNode> embedding_tensors() const;
  std::vector<TensorNode> head_tensors() const;

 private:
  ConstTensorView head_weight(const LayerWeights& ends) const;
  Tensor next_tokens(std::span<const std::int32_t> ids);
  template <typename Visit>
  void for_each_logits(const LayerWeights& ends, ConstTensorView input, Visit visit);

  Session& session_;
  const ModelGraph& graph_;
  std::int64_t sequence_length_;
  Tensor rope_;
};

}  // namespace quern
