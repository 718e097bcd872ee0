#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "kernels/solver.h"

namespace quern {

enum class Method : std::uint8_t { rtn, gptq };
enum class Propagation : std::uint8_t { quantized, original };
enum class OutputFormat : std::uint8_t { gptq, dequantized };
enum class Resume : std::uint8_t { automatic, required, never };
enum class Sampling : std::uint8_t { sequential, random };
enum class BosPolicy : std::uint8_t { automatic, always, never };
enum class Device : std::uint8_t { automatic, cpu };
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

struct QuantizeConfig {
  Method method = Method::gptq;
  GridSpec grid{.bits = 4, .group_size = 128};
  ActOrder act_order = ActOrder::none;
  double damping = 0.01;
  Propagation propagation = Propagation::quantized;
  bool true_sequential = true;
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
  Resume resume = Resume::automatic;
  int threads = 0;                      ///< per rank; 0: cores of the host / ranks on it
  std::int64_t save_activations = 0;    ///< keep the inputs of every n-th layer; 0: never
  std::chrono::seconds watchdog{60};    ///< silence after which a rank counts as lost
  std::chrono::seconds deadline{3600};  ///< longest wait in one collective
  LogLevel log_level = LogLevel::info;
  bool ignore_numerics = false;  ///< resume although backend or libraries differ
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
};

}  // namespace quern
