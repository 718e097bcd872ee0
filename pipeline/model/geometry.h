#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/core/dtype.h"
#include "kernels/layer_ops.h"

namespace quern {

/// Rotary position embedding as configured, old or new style.
struct RopeSpec {
  enum class Type : std::uint8_t { standard, linear, llama3 };
  Type type = Type::standard;
  double theta = 10000.0;
  double factor = 1.0;            ///< linear, llama3
  double low_freq_factor = 1.0;   ///< llama3
  double high_freq_factor = 4.0;  ///< llama3
  double original_positions = 0;  ///< llama3
};

/// The numbers of a decoder-only model, out of config.json.
struct ModelGeometry {
  std::string model_type;
  std::int64_t hidden = 0;
  std::int64_t intermediate = 0;
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t vocab = 0;
  std::int64_t max_positions = 0;
  double norm_epsilon = 1e-6;
  Activation activation = Activation::silu;
  RopeSpec rope;
  std::vector<std::int64_t> window;  ///< per layer; 0: full attention
  bool qkv_bias = false;
  bool output_bias = false;
  bool mlp_bias = false;
  bool tied_head = false;
  std::optional<std::int32_t> bos_id;  ///< begin-of-sequence
  DType dtype = DType::bf16;  ///< of config.json; for estimates, and for what a GPU computes in
};

/// What a model_type takes for granted where config.json is silent.
struct ConfigDefaults {
  bool qkv_bias = false;
  bool tied_head = false;
  bool window_needs_switch = false;  ///< sliding_window counts only with use_sliding_window
  std::int64_t window = 0;  ///< sliding_window where it is absent (null means none); 0: the family
                            ///< has full attention whatever the field says
  std::int64_t full_layers = 0;  ///< max_window_layers where it is absent
  double rope_theta = 10000.0;
};

/// Reads config.json (parsed; `origin` for messages). A field that changes the computation and is
/// not supported, or that Quern does not know and `ignored_fields` does not list, is an InputError
/// that names it with its value.
ModelGeometry read_geometry(const nlohmann::json& config, const ConfigDefaults& defaults,
                            std::span<const std::string> ignored_fields, std::string_view origin);

/// cos and sin of every position: [positions, head_dim] f32, first half cos, second half sin.
std::vector<float> rope_table(const RopeSpec& rope, std::int64_t positions, std::int64_t head_dim);

}  // namespace quern
