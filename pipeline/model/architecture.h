#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "pipeline/model/geometry.h"

namespace quern {

/// What a tensor does in the model; a block finds its weights by role.
enum class Role : std::uint8_t {
  embedding,
  final_norm,
  head,
  attention_norm,
  query,
  key,
  value,
  attention_output,
  mlp_norm,
  gate,
  up,
  down,
};

/// The two parts a linear layer may have in a checkpoint.
enum class Part : std::uint8_t { weight, bias };

/// One tensor of an architecture: its name, shape and presence as functions of the geometry.
struct TensorRow {
  Role role;
  Part part;
  std::string_view name;  ///< below the layer prefix, or whole for tensors outside the layers
  std::int64_t (*rows)(const ModelGeometry&);
  std::int64_t (*columns)(const ModelGeometry&);  ///< nullptr: the tensor has one dimension
  bool (*present)(const ModelGeometry&);          ///< nullptr: always
};

/// Several linear layers that read the same activation. Inputs of the same stage exist at the same
/// time; stage s + 1 is computed from the outputs of stage s.
struct InputRow {
  std::string_view name;  ///< "attention", "attention_output", "mlp", "mlp_hidden"
  int stage;
  std::span<const Role> readers;
  std::int64_t (*features)(const ModelGeometry&);
};

class Backend;
class DecoderBlock;
struct ConstTensorView;

/// A family of models. A new one is a row of `architectures()`, and a DecoderBlock where the
/// computation of a layer differs.
struct Architecture {
  std::string_view model_type;  ///< as in config.json
  ConfigDefaults defaults;
  std::string_view layer_prefix;  ///< "model.layers.{}."
  std::span<const TensorRow> layer_tensors;
  std::span<const TensorRow> model_tensors;            ///< embedding, final norm, head
  std::span<const InputRow> inputs;                    ///< in order of stage
  std::span<const std::string_view> ignored_suffixes;  ///< checkpoint tensors without effect
  std::unique_ptr<DecoderBlock> (*make_block)(const ModelGeometry&, std::int64_t layer,
                                              ConstTensorView rope, Backend&);
};

/// All supported families.
std::span<const Architecture> architectures();

/// Throws InputError naming the type and what is supported.
const Architecture& find_architecture(std::string_view model_type, std::string_view origin);

}  // namespace quern
