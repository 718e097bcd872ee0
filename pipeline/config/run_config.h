#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "kernels/core/dtype.h"
#include "kernels/solver.h"

namespace quern {

enum class Method : std::uint8_t { rtn, gptq, squeezellm };
enum class Propagation : std::uint8_t { quantized, original };
enum class OutlierSelection : std::uint8_t { paper, joint };
enum class OutlierBudget : std::uint8_t { module, model };
enum class CodebookType : std::uint8_t { float32, float16 };
enum class CodebookSearch : std::uint8_t { kmeans, lnq };
enum class Statistics : std::uint8_t { discard, keep };
enum class OutputFormat : std::uint8_t { gptq, dequantized, squeezellm, squeezellm_safetensors };
enum class Resume : std::uint8_t { automatic, required, never };
enum class Sampling : std::uint8_t { sequential, random };
enum class BosPolicy : std::uint8_t { automatic, always, never };
enum class Device : std::uint8_t { automatic, cpu, cuda };
enum class ActivationType : std::uint8_t { automatic, float64, float32, bfloat16, float16 };

/// The type to compute in; empty: what suits the model and the device.
constexpr std::optional<DType> dtype_of(ActivationType type) noexcept {
  switch (type) {
    case ActivationType::float64:
      return DType::f64;
    case ActivationType::float32:
      return DType::f32;
    case ActivationType::bfloat16:
      return DType::bf16;
    case ActivationType::float16:
      return DType::f16;
    default:
      return std::nullopt;
  }
}

enum class LogLevel : std::uint8_t { debug, info, warning, error };

struct ModelConfig {
  std::filesystem::path path;
  std::vector<std::string> ignore_fields;  ///< of config.json, known to be without effect
};

/// Text or token ids, cut into windows. Shared by calibration and evaluation.
struct TextConfig {
  std::vector<std::filesystem::path> source;  ///< .txt .jsonl .jsonl.gz .json.gz .npy .safetensors
  std::string field = "text";                 ///< of a JSON line
  std::int64_t sequence_length = 2048;        ///< tokens per window, begin-of-sequence included
  std::int64_t max_characters = 0;            ///< Unicode characters read from the text; 0: all
  BosPolicy bos = BosPolicy::automatic;       ///< each window starts with begin-of-sequence
};

struct CalibrationConfig {
  TextConfig text;
  std::int64_t samples = 128;
  std::uint64_t seed = 0;
  std::int64_t micro_batch = 4;  ///< sequences pushed through a layer at once; part of the identity
  Sampling sampling = Sampling::random;
};

/// First match wins; the expression must match the whole module name.
struct QuantizeRule {
  std::string match;
  std::regex expression;
  std::optional<int> bits;
  std::optional<std::int64_t> group_size;
  std::optional<bool> symmetric;
  bool skip = false;
};

/// Weights kept exactly, as fractions of all weights: 0.0045 in a run file is 0.0005 sensitive and
/// 0.0040 by magnitude, as in SqueezeLLM's tables; up to 0.0005 all are sensitive.
struct Sparsity {
  double sensitive = 0.0;  ///< of every module
  double magnitude = 0.0;  ///< of the whole model
  OutlierSelection rule = OutlierSelection::paper;
  OutlierBudget budget = OutlierBudget::module;  ///< of rule joint

  double total() const noexcept { return sensitive + magnitude; }
  bool operator==(const Sparsity&) const = default;
};

struct QuantizeConfig {
  Method method = Method::gptq;
  GridSpec grid{.bits = 4, .group_size = 128};
  ActOrder act_order = ActOrder::none;
  double damping = 0.01;
  Propagation propagation = Propagation::quantized;
  bool true_sequential = true;
  Sparsity sparsity;
  CodebookType codebook_type = CodebookType::float32;
  CodebookSearch codebook_search = CodebookSearch::kmeans;
  double codebook_damping = 0.5;      ///< of lnq; keeps codes from fitting what H has by chance
  std::optional<double> target_bits;  ///< mean bits per quantized weight in the file, tables and
                                      ///< outliers included; then bits is not used
  bool lm_head = false;
  std::vector<QuantizeRule> rules;
};

struct OutputConfig {
  std::filesystem::path path;
  OutputFormat format = OutputFormat::gptq;
  std::uint64_t shard_bytes = 5'000'000'000;
};

struct EvaluateConfig {
  TextConfig text;           ///< empty source: no evaluation
  std::int64_t samples = 0;  ///< windows from the start of the text; 0: all whole ones
  std::int64_t micro_batch = 4;
};

struct RunConfig {
  std::filesystem::path directory;
  Device device = Device::automatic;
  ActivationType activation_type = ActivationType::automatic;  ///< the CPU has no 16-bit types
  std::uint64_t gpu_memory_bytes = 0;  ///< of a rank; 0: what is free at the start
  Resume resume = Resume::automatic;
  Statistics statistics = Statistics::discard;
  std::filesystem::path statistics_directory;  ///< empty: "statistics" in the run directory
  std::uint64_t activation_bytes = 0;          ///< host memory of a rank for kept layer inputs, the
                                               ///< rest goes to a file; 0: half of what is free
  int threads = 0;                             ///< per rank; 0: cores of the host / ranks on it
  std::int64_t save_activations = 0;           ///< keep the inputs of every n-th layer; 0: never
  std::chrono::seconds watchdog{6};            ///< silence after which a rank counts as lost
  std::chrono::seconds deadline{3600};         ///< longest wait in one collective
  LogLevel log_level = LogLevel::info;
  bool ignore_numerics = false;  ///< resume although backend or libraries differ
};

/// Settings that a point of a sweep changes; absent ones are the run file's.
struct SweepPoint {
  std::optional<Method> method;
  std::optional<int> bits;
  std::optional<std::int64_t> group_size;
  std::optional<Sparsity> sparsity;

  bool operator==(const SweepPoint&) const = default;
};

/// The product of the lists that are not empty, then `points`, without what an entry of `exclude`
/// matches in all that it sets.
struct SweepConfig {
  std::vector<Method> method;
  std::vector<int> bits;
  std::vector<std::int64_t> group_size;
  std::vector<Sparsity> sparsity;
  std::vector<SweepPoint> points;
  std::vector<SweepPoint> exclude;
};

/// A run file, parsed: enums, numbers in range and paths; no YAML type travels further.
/// Relative paths are relative to the current directory.
struct RunFile {
  ModelConfig model;
  CalibrationConfig calibration;
  QuantizeConfig quantize;
  OutputConfig output;
  EvaluateConfig evaluate;
  RunConfig run;
  SweepConfig sweep;
};

}  // namespace quern
