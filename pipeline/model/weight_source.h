#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "kernels/core/tensor.h"
#include "pipeline/model/model_graph.h"
#include "pipeline/model/take_values.h"
#include "workers/tensors/tensor_source.h"

namespace quern {

/// Where the tensors of a model come from: a plain checkpoint, a packed one, or a checkpoint with
/// the quantized modules of a run in front. One interface, so that every model can be evaluated.
class WeightSource {
 public:
  virtual ~WeightSource() = default;

  /// The tensor under its name in the original checkpoint, of a plain float type. Thread-safe.
  /// Throws InputError or StoreError naming the tensor.
  virtual HostTensor read(const std::string& name) const = 0;
  /// Where the tensor lies in a file as read() would return it; nullopt where read() computes it.
  virtual std::optional<StoredTensor> stored(const std::string& /*name*/) const {
    return std::nullopt;
  }
  /// What read() returns, which must be f32, in pieces: those of packed weights are decoded one by
  /// one, so that the whole is never held. Thread-safe.
  virtual void read_pieces(const std::string& name, const TakeValues& take) const {
    take(0, read(name).as<float>());
  }
  /// What read() costs, in bytes moved; decides who reads what.
  virtual std::uint64_t bytes(const std::string& name) const = 0;
};

/// The tensors of a checkpoint as they are.
class CheckpointWeights final : public WeightSource {
 public:
  explicit CheckpointWeights(const TensorSource& source) : source_(source) {}
  HostTensor read(const std::string& name) const override { return source_.read(name); }
  std::optional<StoredTensor> stored(const std::string& name) const override {
    return source_.stored(name);
  }
  std::uint64_t bytes(const std::string& name) const override { return source_.entry(name).bytes; }

 private:
  const TensorSource& source_;
};

/// A model folder opened for computing: graph, tensors, and the source that understands its
/// format (plain; FP8 blocks; packed as GPTQ or SqueezeLLM by config.json's quantization_config;
/// SqueezeLLM's .pt by quant_config.json), checked against each other. FP8 blocks are a form in
/// which original models are published: such a model does not count as quantized.
struct OpenModel {
  std::filesystem::path folder;
  ModelGraph graph;
  std::unique_ptr<TensorSource> tensors;
  std::unique_ptr<WeightSource> weights;
  bool is_quantized = false;  ///< its linear layers may be packed
};

/// fp8_as: plain float type in which weights stored in FP8 are read. Throws InputError: not a model
/// folder, not supported, or tensors that do not fit config.json.
OpenModel open_model(const std::filesystem::path& folder,
                     std::span<const std::string> ignored_fields, DType fp8_as = DType::f32);

}  // namespace quern
