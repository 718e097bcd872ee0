#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "pipeline/model/decoder_block.h"
#include "pipeline/model/read_ahead.h"
#include "pipeline/model/weight_source.h"
#include "workers/session.h"

namespace quern {

/// Throws InputError naming the tensor unless all of its values are finite.
void require_finite(const std::string& tensor, std::int64_t nonfinite, std::int64_t elems);

/// Brings the tensors of one layer to every rank's device: each rank reads a disjoint share of the
/// bytes and the communicator spreads them, so that a job reads the checkpoint once. The next
/// layer's share is read on a thread while the current layer computes.
class LayerLoader {
 public:
  LayerLoader(Session& session, const WeightSource& source);

  /// Starts to read this rank's share in the background.
  void prefetch(const std::vector<TensorNode>& nodes);

  /// Collective. Tensors of the backend's activation type (norms and biases too), each checked
  /// for infinities and NaN: InputError naming the tensor and their number.
  LayerWeights load(const std::vector<TensorNode>& nodes);

  /// As load(), for this rank alone: no collective.
  LayerWeights load_own(const std::vector<TensorNode>& nodes);

 private:
  std::vector<int> readers(const std::vector<TensorNode>& nodes) const;
  std::vector<std::string> share(const std::vector<TensorNode>& nodes,
                                 const std::vector<int>& readers) const;
  std::vector<DType> stored_types(const std::vector<const HostView*>& views);
  Tensor uploaded(const TensorNode& node, const HostView& read);
  std::vector<Tensor> upload_plain(const std::vector<TensorNode>& nodes,
                                   std::vector<const HostView*>& views);
  Tensor prepared(Tensor raw);

  Session& session_;
  const WeightSource& source_;
  ReadAhead reads_;
};

}  // namespace quern
