#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/model/model_graph.h"
#include "workers/files/commit_hook.h"
#include "workers/tensors/tensor_file.h"

namespace quern {

/// What the values of a synthetic tensor are like.
enum class SyntheticKind : std::uint8_t {
  weight,      ///< around 0, deviation initializer_range
  bias,        ///< around 0, a tenth of that
  norm,        ///< around 1, deviation initializer_range
  fp8_weight,  ///< E4M3, filling its range
  fp8_scale,   ///< one per block of 128 x 128, so that the product is like `weight`
};

struct SyntheticTensor {
  TensorSpec spec;
  SyntheticKind kind = SyntheticKind::weight;
};

struct SyntheticShard {
  std::string file_name;
  std::vector<SyntheticTensor> tensors;  ///< sorted by name, as they lie in the file
};

/// A model folder to be written: every tensor of the architecture, and its config.json.
struct Synthesis {
  nlohmann::ordered_json config;
  double deviation = 0.02;  ///< of weights
  std::vector<SyntheticShard> shards;

  std::uint64_t tensor_bytes() const;
};

/// What is asked of a synthetic model.
struct SynthesisShape {
  std::optional<DType> dtype{};  ///< f8_e4m3: FP8 blocks; absent: as config.json says
  std::uint64_t shard_bytes = 5'000'000'000;
  std::optional<std::int64_t> layers{};  ///< only the first ones
  std::vector<std::string> ignored_fields{};
};

/// Lays a model out from a parsed config.json (`origin` for messages). Tensors in the order of the
/// checkpoint, shards of at most shard_bytes (a tensor is never cut). Throws InputError for a
/// config.json that cannot be used, ConfigError for more layers than it has.
Synthesis plan_synthesis(const nlohmann::ordered_json& config, const std::string& origin,
                         const SynthesisShape& shape);

struct SynthesisTarget {
  std::filesystem::path folder;  ///< new or empty
  std::uint64_t seed = 0;
  int threads = 1;
  std::filesystem::path tokenizer{};  ///< folder whose tokenizer files are copied; empty: none
  std::function<void(const std::string& file, std::uint64_t bytes)> wrote_shard{};
  CommitHook hook{};
};

/// Writes the model into "<folder>.partial": shards, tokenizer, config.json, the index last; then
/// renames it. Values depend on seed, tensor name and index alone. Throws ConfigError for a folder
/// that is not empty, InputError for a folder without tokenizer files, StoreError if the disk is
/// full or is going to be.
void write_synthesis(const Synthesis& synthesis, const SynthesisTarget& target);

}  // namespace quern
