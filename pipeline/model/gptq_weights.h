#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/model/weight_source.h"

namespace quern {

/// One module of a GPTQ checkpoint, as stored.
struct GptqTensors {
  HostTensor qweight;  ///< [ceil(K bits / 32), N] i32
  HostTensor qzeros;   ///< [G, ceil(N bits / 32)] i32
  HostTensor scales;   ///< [G, N] f16
  HostTensor g_idx;    ///< [K] i32
};

/// W [N, K] f32 = scales[g, n] (code[k, n] - zero[g, n]). `stored_zero_offset` is 1 for
/// checkpoint_format "gptq" (v1 stores zero - 1) and 0 for "gptq_v2". Written for reading alone: it
/// shares nothing with the packer. Throws InputError naming `module` when the tensors do not fit.
HostTensor decode_gptq(const GptqTensors& tensors, int bits, int stored_zero_offset,
                       std::string_view module);

/// A GPTQ checkpoint: packed modules are decoded, everything else is passed on.
class GptqWeights final : public WeightSource {
 public:
  /// config: the quantization_config, in file order (the first matching `dynamic` entry wins).
  /// Throws InputError for a configuration it does not know.
  GptqWeights(const TensorSource& source, const nlohmann::ordered_json& config,
              std::string_view origin);

  HostTensor read(const std::string& name) const override;
  void read_pieces(const std::string& name, const TakeValues& take) const override;
  std::uint64_t bytes(const std::string& name) const override;

  bool is_packed(const std::string& module) const;

 private:
  struct Override {
    std::regex expression;
    bool skip = false;
    int bits = 0;
  };

  static Override read_override(const std::string& key, const nlohmann::ordered_json& value,
                                int default_bits, std::string_view origin);
  int bits_of(const std::string& module) const;
  GptqTensors read_grid(const std::string& module) const;

  const TensorSource& source_;
  int bits_ = 4;
  int stored_zero_offset_ = 1;
  std::vector<Override> overrides_;
};

/// As check_checkpoint, for a graph whose linear layers may be packed.
void check_gptq_checkpoint(const ModelGraph& graph, const TensorSource& source,
                           const GptqWeights& weights);

}  // namespace quern
