#include "pipeline/model/layer_loader.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kernels/core/error.h"
#include "workers/agreement.h"

namespace quern {

void require_finite(const std::string& tensor, std::int64_t nonfinite, std::int64_t elems) {
  if (nonfinite == 0) return;
  throw InputError(fmt::format(
      "tensor '{}': {} of {} values are infinite or NaN; expected finite weights, the checkpoint "
      "is damaged or overflowed when it was converted",
      tensor, nonfinite, elems));
}

LayerLoader::LayerLoader(Session& session, const WeightSource& source)
    : session_(session), source_(source), reads_(session, source) {}

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

/// The names of what this rank reads.
std::vector<std::string> LayerLoader::share(const std::vector<TensorNode>& nodes,
                                            const std::vector<int>& readers) const {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (readers[i] == session_.rank()) names.push_back(nodes[i].name);
  }
  return names;
}

void LayerLoader::prefetch(const std::vector<TensorNode>& nodes) {
  reads_.start(share(nodes, readers(nodes)));
}

/// The types in which the tensors come, which only their readers know.
std::vector<DType> LayerLoader::stored_types(const std::vector<const HostView*>& views) {
  std::vector<std::int64_t> numbers;
  for (const HostView* view : views) {
    numbers.push_back(view == nullptr ? 0 : static_cast<std::int64_t>(view->dtype));
  }
  session_.communicator->sum(numbers);
  std::vector<DType> types;
  for (const std::int64_t number : numbers) types.push_back(static_cast<DType>(number));
  return types;
}

/// A tensor as it was read, on its way to this rank's device.
Tensor LayerLoader::uploaded(const TensorNode& node, const HostView& read) {
  Memory& memory = session_.backend->memory();
  Tensor raw = memory.allocate(read.dtype, node.shape);
  memory.upload(read.bytes, raw.view());
  return raw;
}

/// Those of `views` that need no conversion, so that ranks upload side by side; the others come one
/// by one, as they are there twice for a time. What is on its way leaves `views`.
std::vector<Tensor> LayerLoader::upload_plain(const std::vector<TensorNode>& nodes,
                                              std::vector<const HostView*>& views) {
  std::vector<Tensor> raw(nodes.size());
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (views[i] == nullptr || views[i]->dtype != session_.backend->activation_dtype()) continue;
    raw[i] = uploaded(nodes[i], *std::exchange(views[i], nullptr));
  }
  return raw;
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
  std::vector<HostView> mine;
  run_agreed(session_, [&] { mine = reads_.take(share(nodes, reader)); });
  std::vector<const HostView*> views(nodes.size(), nullptr);  // of what this rank reads
  for (std::size_t i = 0, next = 0; i < nodes.size(); ++i) {
    if (reader[i] == session_.rank()) views[i] = &mine[next++];
  }
  const std::vector<DType> types = stored_types(views);
  Backend& backend = *session_.backend;
  Tensor counts = backend.memory().allocate(DType::i64, {static_cast<std::int64_t>(nodes.size())});
  backend.memory().clear(counts.view());
  std::vector<Tensor> raw = upload_plain(nodes, views);
  LayerWeights weights;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (views[i] != nullptr) raw[i] = uploaded(nodes[i], *views[i]);
    if (reader[i] != session_.rank()) raw[i] = backend.memory().allocate(types[i], nodes[i].shape);
    session_.communicator->broadcast(raw[i].view(), reader[i]);
    Tensor tensor = prepared(std::move(raw[i]));
    backend.layers().count_nonfinite(std::as_const(tensor).view(),
                                     counts.view().rows(static_cast<std::int64_t>(i), 1));
    weights.set(nodes[i].role, nodes[i].part, std::move(tensor));
  }
  // This waits for the uploads too: what was read may be overwritten after it.
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
