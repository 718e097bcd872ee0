#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/model/weight_source.h"

namespace quern {

/// Rows and columns of a matrix that share one scale.
struct Fp8Blocks {
  std::int64_t rows = 128;
  std::int64_t columns = 128;

  /// [ceil(N / rows), ceil(K / columns)] for a weight [N, K].
  Shape scales_of(const Shape& weight) const;
};

/// W [N, K] = weight scale: weight [N, K] f8_e4m3, scales [ceil(N / rows), ceil(K / columns)] f32,
/// multiplied in float32 and rounded to `dtype` (f32, f16 or bf16). Throws InputError naming
/// `name` unless types and shapes fit.
HostTensor decode_fp8(const HostTensor& weight, const HostTensor& scales, const Fp8Blocks& blocks,
                      DType dtype, std::string_view name);

/// A checkpoint whose linear layers may be E4M3 in blocks, as DeepSeek publishes them: beside
/// "x.weight" lies "x.weight_scale_inv", not necessarily in the same shard. Everything else is
/// passed on.
class Fp8Weights final : public WeightSource {
 public:
  /// config: the quantization_config. dtype: what FP8 weights are read as; f32, f16 or bf16.
  /// Throws InputError for a configuration other than E4M3 in blocks.
  Fp8Weights(const TensorSource& source, const nlohmann::json& config, DType dtype,
             std::string_view origin);

  HostTensor read(const std::string& name) const override;
  std::optional<StoredTensor> stored(const std::string& name) const override;
  std::uint64_t bytes(const std::string& name) const override;

  /// The names that stand for a weight stored in FP8; empty where it is stored otherwise. Throws
  /// InputError for a missing or ill-shaped scale.
  std::vector<std::string> stored_names(const TensorNode& node) const;

 private:
  bool is_fp8(const std::string& name) const;

  const TensorSource& source_;
  Fp8Blocks blocks_;
  DType dtype_;
};

}  // namespace quern
