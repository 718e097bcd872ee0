#include "pipeline/model/layer_loader.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/core/error.h"
#include "workers/agreement.h"
#include "workers/parallel.h"

namespace quern {
namespace {

constexpr int kMostReaders = 8;

/// Whether the host could use the device's memory as it is.
bool is_on_host(Memory& memory) {
  return memory.host_address(memory.allocate(DType::u8, {1}).view()) != nullptr;
}

}  // namespace

void require_finite(const std::string& tensor, std::int64_t nonfinite, std::int64_t elems) {
  if (nonfinite == 0) return;
  throw InputError(fmt::format(
      "tensor '{}': {} of {} values are infinite or NaN; expected finite weights, the checkpoint "
      "is damaged or overflowed when it was converted",
      tensor, nonfinite, elems));
}

LayerLoader::LayerLoader(Session& session, const WeightSource& source)
    : session_(session), source_(source), stages_(!is_on_host(session.backend->memory())) {}

/// A GPU waits for the host, whose threads are idle then; on the CPU they compute.
std::vector<LayerLoader::ReadTensor> LayerLoader::read_all(
    const std::vector<std::string>& names) const {
  std::vector<ReadTensor> tensors(names.size());
  run_parallel(names.size(), stages_ ? std::min(session_.threads, kMostReaders) : 1,
               [&](std::size_t i) {
                 const Trace::Span span(session_.trace.get(), "read {}", names[i]);
                 tensors[i].own = source_.read(names[i]);
                 tensors[i].bytes = tensors[i].own.bytes;
               });
  return tensors;
}

/// Moves the bytes of all tensors into the staging buffer.
void LayerLoader::stage(std::vector<ReadTensor>& tensors) {
  std::size_t total = 0;
  for (const ReadTensor& tensor : tensors) total += tensor.bytes.size();
  if (staging_.size() < total) {
    staging_ = {};
    staging_ = session_.backend->memory().allocate_host(total);
  }
  std::size_t begin = 0;
  for (ReadTensor& tensor : tensors) {
    const auto place = staging_.first(begin + tensor.bytes.size()).subspan(begin);
    std::ranges::copy(tensor.bytes, place.begin());
    begin += tensor.bytes.size();
    tensor.bytes = place;
    std::vector<std::byte>().swap(tensor.own.bytes);
  }
}

/// Who reads each tensor: in turn, always the rank with the fewest bytes so far.
std::vector<int> LayerLoader::readers(const std::vector<TensorNode>& nodes) const {
  std::vector<std::uint64_t> load(static_cast<std::size_t>(session_.ranks()));
  std::vector<int> result;
  for (const TensorNode& node : nodes) {
    const auto lightest = std::ranges::min_element(load);
    *lightest += source_.bytes(node.name);
    result.push_back(static_cast<int>(lightest - load.begin()));
  }
  return result;
}

void LayerLoader::prefetch(const std::vector<TensorNode>& nodes) {
  const std::vector<int> reader = readers(nodes);
  pending_ = {};
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (reader[i] == session_.rank()) pending_.names.push_back(nodes[i].name);
  }
  pending_.tensors = std::async(std::launch::async, [this, names = pending_.names] {
    std::vector<ReadTensor> tensors = read_all(names);
    if (stages_) stage(tensors);
    return tensors;
  });
}

std::vector<LayerLoader::ReadTensor> LayerLoader::take(const std::vector<std::string>& names) {
  if (pending_.tensors.valid() && pending_.names == names) return pending_.tensors.get();
  return read_all(names);
}

/// The tensor on every rank's device, in the activation type.
Tensor LayerLoader::spread(const TensorNode& node, int reader, const ReadTensor* mine) {
  Memory& memory = session_.backend->memory();
  std::int64_t stored = mine == nullptr ? 0 : static_cast<std::int64_t>(mine->own.dtype);
  session_.communicator->broadcast(std::as_writable_bytes(std::span(&stored, 1)), reader);
  Tensor raw = memory.allocate(static_cast<DType>(stored), node.shape);
  if (mine != nullptr) {
    memory.upload(mine->bytes, raw.view());
    memory.synchronize();
  }
  session_.communicator->broadcast(raw.view(), reader);
  return prepared(std::move(raw));
}

Tensor LayerLoader::prepared(Tensor raw) {
  const DType dtype = session_.backend->activation_dtype();
  if (raw.dtype() == dtype) return raw;
  Tensor converted = session_.backend->memory().allocate(dtype, raw.shape());
  session_.backend->layers().convert(raw.view(), converted.view());
  return converted;
}

LayerWeights LayerLoader::load(const std::vector<TensorNode>& nodes) {
  const std::vector<int> reader = readers(nodes);
  std::vector<std::string> names;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (reader[i] == session_.rank()) names.push_back(nodes[i].name);
  }
  std::vector<ReadTensor> mine;
  run_agreed(session_, [&] { mine = take(names); });
  Backend& backend = *session_.backend;
  Tensor counts = backend.memory().allocate(DType::i64, {static_cast<std::int64_t>(nodes.size())});
  backend.memory().clear(counts.view());
  LayerWeights weights;
  std::size_t next = 0;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const ReadTensor* tensor = reader[i] == session_.rank() ? &mine[next++] : nullptr;
    Tensor spread_tensor = spread(nodes[i], reader[i], tensor);
    backend.layers().count_nonfinite(std::as_const(spread_tensor).view(),
                                     counts.view().rows(static_cast<std::int64_t>(i), 1));
    weights.set(nodes[i].role, nodes[i].part, std::move(spread_tensor));
  }
  const HostTensor bad = backend.memory().to_host(counts.view());
  run_agreed(session_, [&] {
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      require_finite(nodes[i].name, bad.as<std::int64_t>()[i], nodes[i].shape.elems());
    }
  });
  return weights;
}

LayerWeights LayerLoader::load_own(const std::vector<TensorNode>& nodes) {
  Memory& memory = session_.backend->memory();
  LayerWeights weights;
  for (const TensorNode& node : nodes) {
    Tensor tensor = prepared(memory.to_device(source_.read(node.name)));
    Tensor bad = memory.allocate(DType::i64, {1});
    memory.clear(bad.view());
    session_.backend->layers().count_nonfinite(tensor.view(), bad.view());
    require_finite(node.name, memory.to_host(bad.view()).as<std::int64_t>()[0], node.shape.elems());
    weights.set(node.role, node.part, std::move(tensor));
  }
  return weights;
}

}  // namespace quern
