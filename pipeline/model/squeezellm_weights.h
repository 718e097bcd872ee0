#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "pipeline/model/weight_source.h"

namespace quern {

/// The sparse part of a module, in compressed rows.
struct SqueezellmOutliers {
  HostTensor rows;  ///< [N + 1] i32, from 0 to nnz
  HostTensor cols;  ///< [nnz] i32, ascending in a row
  HostTensor vals;  ///< [nnz] f32
};

/// One module of a SqueezeLLM checkpoint, as stored.
struct SqueezellmTensors {
  HostTensor qweight;       ///< [K bits / 32, N] i32
  HostTensor lookup_table;  ///< [N, 2^bits] f32 or f16
  std::optional<SqueezellmOutliers> outliers;
};

/// W [N, K] f32 = lookup_table[n, code[k, n]], plus vals at their places. Written for reading
/// alone: it shares nothing with the packer. Throws InputError naming `module` and the tensor when
/// they do not fit each other.
HostTensor decode_squeezellm(const SqueezellmTensors& tensors, int bits, std::string_view module);

/// A SqueezeLLM checkpoint in either container: packed modules are decoded, everything else is
/// passed on.
class SqueezellmWeights final : public WeightSource {
 public:
  /// config: config.json's quantization_config, or all of quant_config.json. Throws InputError for
  /// a configuration it does not know.
  SqueezellmWeights(const TensorSource& source, const nlohmann::ordered_json& config,
                    std::string_view origin);

  HostTensor read(const std::string& name) const override;
  void read_pieces(const std::string& name, const TakeValues& take) const override;
  std::uint64_t bytes(const std::string& name) const override;

  bool is_packed(const std::string& module) const;
  int bits_of(const std::string& module) const;

 private:
  SqueezellmTensors read_tables(const std::string& module) const;

  const TensorSource& source_;
  int bits_ = 4;
  std::map<std::string, int> deviating_;  ///< module -> bits
};

/// As check_checkpoint, for a graph whose linear layers may be packed.
void check_squeezellm_checkpoint(const ModelGraph& graph, const TensorSource& source,
                                 const SqueezellmWeights& weights);

}  // namespace quern
