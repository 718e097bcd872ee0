#include "pipeline/model/forward.h"

#include <algorithm>

#include "kernels/core/error.h"

namespace quern {
namespace {

constexpr std::int64_t kHeadRows = 256;

}  // namespace

MicroBatches::MicroBatches(HostTensor ids, std::int64_t size)
    : ids_(std::move(ids)), size_(size), count_((ids_.shape[0] + size - 1) / size) {}

std::span<const std::int32_t> MicroBatches::ids(std::int64_t m) const {
  const std::int64_t begin = m * size_;
  const std::int64_t sequences = std::min(size_, ids_.shape[0] - begin);
  ensure(m >= 0 && sequences > 0, "an existing micro-batch");
  return ids_.as<std::int32_t>().subspan(static_cast<std::size_t>(begin * sequence_length()),
                                         static_cast<std::size_t>(sequences * sequence_length()));
}

std::int64_t MicroBatches::of_round(std::int64_t round, int rank, int ranks) const noexcept {
  const std::int64_t m = round * ranks + rank;
  return m < count_ ? m : -1;
}

Forward::Forward(Session& session, const ModelGraph& graph, std::int64_t sequence_length)
    : session_(session), graph_(graph), sequence_length_(sequence_length) {
  const ModelGeometry& geometry = graph.geometry;
  const std::vector<float> table = rope_table(geometry.rope, sequence_length, geometry.head_dim);
  Memory& memory = session.backend->memory();
  rope_ = memory.allocate(DType::f32, {sequence_length, geometry.head_dim});
  memory.upload(std::as_bytes(std::span(table)), rope_.view());
  memory.synchronize();
}

std::vector<TensorNode> Forward::embedding_tensors() const {
  return {graph_.tensor(Role::embedding)};
}

std::vector<TensorNode> Forward::head_tensors() const {
  const Role head = graph_.geometry.tied_head ? Role::embedding : Role::head;
  return {graph_.tensor(Role::final_norm), graph_.tensor(head)};
}

ConstTensorView Forward::head_weight(const LayerWeights& ends) const {
  return ends.weight(graph_.geometry.tied_head ? Role::embedding : Role::head);
}

Tensor Forward::embed(const LayerWeights& ends, std::span<const std::int32_t> ids) {
  Backend& backend = *session_.backend;
  const auto tokens = static_cast<std::int64_t>(ids.size());
  Tensor device_ids = backend.memory().allocate(DType::i32, {tokens});
  backend.memory().upload(std::as_bytes(ids), device_ids.view());
  Tensor out =
      backend.memory().allocate(backend.activation_dtype(), {tokens, graph_.geometry.hidden});
  backend.layers().embed(ends.weight(Role::embedding), device_ids.view(), out.view());
  return out;
}

Tensor Forward::head_input(const LayerWeights& ends, ConstTensorView residual) {
  Backend& backend = *session_.backend;
  Tensor out = backend.memory().allocate(residual.dtype, residual.shape);
  backend.layers().rms_norm(residual, ends.weight(Role::final_norm),
                            static_cast<float>(graph_.geometry.norm_epsilon), out.view());
  return out;
}

/// [T] i32: what each token is to predict, -1 at the end of a sequence.
Tensor Forward::next_tokens(std::span<const std::int32_t> ids) {
  Memory& memory = session_.backend->memory();
  const auto length = static_cast<std::size_t>(sequence_length_);
  std::vector<std::int32_t> targets(ids.size());
  for (std::size_t t = 0; t < ids.size(); ++t) targets[t] = (t + 1) % length ? ids[t + 1] : -1;
  Tensor device = memory.allocate(DType::i32, {static_cast<std::int64_t>(ids.size())});
  memory.upload(std::as_bytes(std::span(targets)), device.view());
  memory.synchronize();
  return device;
}

/// visit(first row, logits [rows, V]) for pieces of the head's output.
template <typename Visit>
void Forward::for_each_logits(const LayerWeights& ends, ConstTensorView input, Visit visit) {
  Backend& backend = *session_.backend;
  const std::int64_t tokens = input.shape[0];
  Tensor logits =
      backend.memory().allocate(input.dtype, {std::min(kHeadRows, tokens), graph_.geometry.vocab});
  for (std::int64_t row = 0; row < tokens; row += kHeadRows) {
    const std::int64_t rows = std::min(kHeadRows, tokens - row);
    const TensorView chunk = logits.view().rows(0, rows);
    backend.layers().linear(input.rows(row, rows), head_weight(ends), std::nullopt, chunk);
    visit(row, chunk);
  }
}

std::vector<float> Forward::token_nll(const LayerWeights& ends, ConstTensorView residual,
                                      std::span<const std::int32_t> ids) {
  Memory& memory = session_.backend->memory();
  const Tensor targets = next_tokens(ids);
  const Tensor input = head_input(ends, residual);
  Tensor nll = memory.allocate(DType::f32, targets.shape());
  for_each_logits(ends, input.view(), [&](std::int64_t row, TensorView logits) {
    const std::int64_t rows = logits.shape[0];
    session_.backend->layers().token_nll(logits, targets.view().rows(row, rows),
                                         nll.view().rows(row, rows));
  });
  const HostTensor host = memory.to_host(nll.view());
  const auto length = static_cast<std::size_t>(sequence_length_);
  std::vector<float> result;
  for (std::size_t t = 0; t < ids.size(); ++t) {
    if ((t + 1) % length) result.push_back(host.as<float>()[t]);
  }
  return result;
}

Tensor Forward::loss_gradient(const LayerWeights& ends, ConstTensorView residual,
                              std::span<const std::int32_t> ids) {
  Backend& backend = *session_.backend;
  const Tensor targets = next_tokens(ids);
  const Tensor input = head_input(ends, residual);
  Tensor gradient = backend.memory().allocate(residual.dtype, residual.shape);
  const auto scale = static_cast<float>(1.0 / static_cast<double>(sequence_length_ - 1));
  for_each_logits(ends, input.view(), [&](std::int64_t row, TensorView logits) {
    const std::int64_t rows = logits.shape[0];
    backend.gradients().token_nll(logits, targets.view().rows(row, rows), scale);
    backend.gradients().linear(logits, head_weight(ends), gradient.view().rows(row, rows));
  });
  backend.gradients().rms_norm(residual, ends.weight(Role::final_norm),
                               static_cast<float>(graph_.geometry.norm_epsilon), gradient.view(),
                               gradient.view());
  return gradient;
}

}  // namespace quern
