#include "pipeline/stages/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <future>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/core/fingerprint.h"
#include "kernels/core/float16.h"
#include "pipeline/exporters/exporter.h"
#include "pipeline/gather_json.h"
#include "pipeline/model/gptq_weights.h"
#include "pipeline/run_weights.h"
#include "workers/agreement.h"
#include "workers/files/atomic_file.h"
#include "workers/files/hash.h"
#include "workers/parallel.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

double load_half(DType dtype, std::uint16_t bits) {
  return static_cast<double>(dtype == DType::bf16 ? bf16_to_float(bits) : f16_to_float(bits));
}

/// Whether no neighbouring bit pattern is closer to the exact value than the stored one.
bool nearest(DType dtype, std::uint16_t stored, float exact) {
  const auto value = static_cast<double>(exact);
  const double distance = std::abs(load_half(dtype, stored) - value);
  for (const int step : {-1, 1}) {
    const auto neighbour = static_cast<std::uint16_t>(stored + step);
    if (std::abs(load_half(dtype, neighbour) - value) < distance) return false;
  }
  return std::isfinite(distance);
}

/// Whether these exact values, at their place in the tensor, round to what is stored there.
bool is_rounding_of(const HostTensor& stored, std::uint64_t first, std::span<const float> exact) {
  if (stored.dtype == DType::f32) {
    return std::ranges::equal(std::as_bytes(exact),
                              std::as_bytes(stored.as<float>().subspan(first, exact.size())));
  }
  if (stored.dtype != DType::f16 && stored.dtype != DType::bf16) return false;
  const auto values = stored.as<std::uint16_t>().subspan(first, exact.size());
  for (std::size_t i = 0; i < exact.size(); ++i) {
    if (!nearest(stored.dtype, values[i], exact[i])) return false;
  }
  return true;
}

/// Compares tensors of the output with what they should be. Any thread.
class OutputCheck {
 public:
  OutputCheck(RunContext& context, const OpenModel& output, std::span<const ModuleSummary> modules)
      : context_(context),
        output_(output),
        committed_(*context.model.weights, context.plan, context.store) {
    for (const ModuleSummary& module : modules) reported_[module.name] = &module.metrics;
  }

  bool is_quantized(const TensorNode& node) const {
    return node.part == Part::weight && reported_.contains(module_of(node));
  }

  /// What is wrong with a tensor; empty: nothing.
  std::string problem_of(const TensorNode& node) const {
    if (is_quantized(node)) {
      if (decodes_as_reported(node)) return {};
      return fmt::format("module '{}' decodes to other values than the quantizer reported",
                         module_of(node));
    }
    const HostTensor source = context_.model.weights->read(node.name);
    const HostTensor stored = output_.tensors->read(node.name);
    if (stored.shape == source.shape &&
        (stored.dtype == source.dtype
             ? stored.bytes == source.bytes
             : is_rounding_of(stored, 0, converted(source, DType::f32).as<float>()))) {
      return {};
    }
    return fmt::format("tensor '{}' differs from the source", node.name);
  }

 private:
  static std::string module_of(const TensorNode& node) {
    return node.name.substr(0, node.name.rfind('.'));
  }

  bool decodes_as_reported(const TensorNode& node) const {
    std::uint64_t sum = 0;
    bool rounded = true;
    if (context_.config.output.format == OutputFormat::dequantized) {
      const HostTensor stored = output_.tensors->read(node.name);
      rounded = stored.shape == node.shape;
      committed_.read_pieces(node.name, [&](std::uint64_t first, std::span<const float> exact) {
        sum += fingerprint(exact, first);
        rounded = rounded && is_rounding_of(stored, first, exact);
      });
    } else {
      output_.weights->read_pieces(node.name,
                                   [&](std::uint64_t first, std::span<const float> decoded) {
                                     sum += fingerprint(decoded, first);
                                   });
    }
    return rounded && fingerprint_text(sum) == reported_.at(module_of(node))->dequantized_hash;
  }

  RunContext& context_;
  const OpenModel& output_;
  RunWeights committed_;
  std::map<std::string, const ModuleMetrics*> reported_;
};

FileHashes parse_sums(const fs::path& path) {
  FileHashes sums;
  std::istringstream lines(read_text_file(path));
  for (std::string line; std::getline(lines, line);) {
    if (line.size() < 67 || line.substr(64, 2) != "  ") {
      throw InputError(fmt::format("{}: line '{}' is not '<sha256>  <name>'", path.string(), line));
    }
    sums[line.substr(66)] = line.substr(0, 64);
  }
  return sums;
}

/// This rank's share of the tensors of the output folder.
void check_tensors(RunContext& context, std::span<const ModuleSummary> modules,
                   VerifyResult& result) {
  const Session& session = context.session;
  const OpenModel output =
      open_model(context.config.output.path, context.config.model.ignore_fields);
  const OutputCheck check(context, output, modules);
  std::vector<const TensorNode*> all;
  for (const TensorNode& node : context.model.graph.tensors) all.push_back(&node);
  for (const LayerGraph& layer : context.model.graph.layers) {
    for (const TensorNode& node : layer.tensors) all.push_back(&node);
  }
  std::vector<const TensorNode*> mine;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (static_cast<int>(i) % session.ranks() == session.rank()) mine.push_back(all[i]);
  }
  std::vector<std::string> problems(mine.size());
  run_parallel(mine.size(), session.threads,
               [&](std::size_t i) { problems[i] = check.problem_of(*mine[i]); });
  for (std::size_t i = 0; i < mine.size(); ++i) {
    ++(check.is_quantized(*mine[i]) ? result.quantized_modules : result.other_tensors);
    if (!problems[i].empty()) result.problems.push_back(problems[i]);
  }
}

/// Rank 0's result with everybody's counts and problems.
void merge(Session& session, VerifyResult& result) {
  std::array<std::int64_t, 2> counts = {result.quantized_modules, result.other_tensors};
  session.communicator->sum(counts);
  result.quantized_modules = counts[0];
  result.other_tensors = counts[1];
  std::vector<std::string> all;
  for (const nlohmann::json& problems : gather_json(session, result.problems)) {
    for (const auto& problem : problems) all.push_back(problem);
  }
  result.problems = all;
}

}  // namespace

VerifyResult verify_sums(const fs::path& folder, const FileHashes& known) {
  VerifyResult result;
  FileHashes sums = parse_sums(folder / "SHA256SUMS");
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name == "SHA256SUMS") continue;
    ++result.files;
    const auto listed = sums.find(name);
    if (listed == sums.end()) {
      result.problems.push_back(fmt::format("file '{}' is not listed in SHA256SUMS", name));
      continue;
    }
    const auto computed = known.find(name);
    if ((computed == known.end() ? sha256_file(entry.path()) : computed->second) !=
        listed->second) {
      result.problems.push_back(fmt::format("file '{}' does not match SHA256SUMS", name));
    }
    sums.erase(listed);
  }
  for (const auto& [name, hash] : sums) {
    result.problems.push_back(fmt::format("file '{}' is listed in SHA256SUMS but missing", name));
  }
  return result;
}

VerifyResult verify_output(RunContext& context, std::span<const ModuleSummary> modules,
                           const FileHashes& known) {
  Session& session = context.session;
  const auto lap = context.watch.lap("verify");
  session.enter("verify");
  const fs::path& folder = context.config.output.path;
  std::future<VerifyResult> sums = std::async(std::launch::async, [&] {
    return session.is_root() ? verify_sums(folder, known) : VerifyResult{};
  });
  VerifyResult tensors;
  std::exception_ptr failure;
  bool readable = true;
  try {
    check_tensors(context, modules, tensors);
  } catch (const InputError&) {
    failure = std::current_exception();
    readable = false;
  } catch (...) {
    failure = std::current_exception();
  }
  VerifyResult result;
  run_agreed(session, [&] { result = sums.get(); });
  // Where the sums have named a file, it need not be readable.
  const bool damaged = any_rank(session, !result.passed());
  run_agreed(session, [&] {
    if (failure && (readable || !damaged)) std::rethrow_exception(failure);
  });
  result.quantized_modules = tensors.quantized_modules;
  result.other_tensors = tensors.other_tensors;
  result.problems.insert(result.problems.end(), tensors.problems.begin(), tensors.problems.end());
  merge(session, result);
  return result;
}

}  // namespace quern
