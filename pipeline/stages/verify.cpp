#include "pipeline/stages/verify.h"

#include <fmt/format.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "kernels/core/error.h"
#include "kernels/core/fingerprint.h"
#include "kernels/core/float16.h"
#include "pipeline/gather_json.h"
#include "pipeline/model/gptq_weights.h"
#include "pipeline/run_weights.h"
#include "workers/agreement.h"
#include "workers/files/atomic_file.h"
#include "workers/files/hash.h"

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

std::string hash_of(const HostTensor& values) {
  return fingerprint_text(fingerprint(values.as<float>()));
}

bool is_rounding_of(const HostTensor& stored, const HostTensor& exact) {
  if (stored.shape != exact.shape) return false;
  const auto values = exact.as<float>();
  if (stored.dtype == DType::f32) return stored.bytes == exact.bytes;
  if (stored.dtype != DType::f16 && stored.dtype != DType::bf16) return false;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!nearest(stored.dtype, stored.as<std::uint16_t>()[i], values[i])) return false;
  }
  return true;
}

class OutputCheck {
 public:
  OutputCheck(RunContext& context, const OpenModel& output)
      : context_(context),
        output_(output),
        committed_(*context.model.weights, context.plan, context.store) {}

  void check_tensor(const TensorNode& node, VerifyResult& result) {
    const std::string module = node.name.substr(0, node.name.rfind('.'));
    if (node.part == Part::weight) {
      if (const auto committed = committed_.module(module)) {
        ++result.quantized_modules;
        return check_module(*committed, node.name, result);
      }
    }
    ++result.other_tensors;
    const HostTensor source = context_.model.weights->read(node.name);
    const HostTensor stored = output_.tensors->read(node.name);
    if (stored.dtype == source.dtype ? stored.bytes == source.bytes
                                     : is_rounding_of(stored, as_float(source))) {
      return;
    }
    result.problems.push_back(fmt::format("tensor '{}' differs from the source", node.name));
  }

 private:
  HostTensor as_float(const HostTensor& tensor) const {
    Memory& memory = context_.session.backend->memory();
    const Tensor device = memory.to_device(tensor);
    Tensor single = memory.allocate(DType::f32, tensor.shape);
    context_.session.backend->layers().convert(device.view(), single.view());
    return memory.to_host(single.view());
  }

  void check_module(const QuantizedModule& committed, const std::string& name,
                    VerifyResult& result) const {
    const std::string& reported = committed.metrics.dequantized_hash;
    const HostTensor stored = output_.weights->read(name);
    if (context_.config.output.format == OutputFormat::dequantized) {
      const HostTensor exact = dequantize_on_host(committed);
      if (hash_of(exact) == reported && is_rounding_of(stored, exact)) return;
    } else if (hash_of(stored) == reported) {
      return;
    }
    result.problems.push_back(fmt::format(
        "module '{}' decodes to other values than the quantizer reported", committed.name));
  }

  RunContext& context_;
  const OpenModel& output_;
  RunWeights committed_;
};

std::map<std::string, std::string> parse_sums(const fs::path& path) {
  std::map<std::string, std::string> sums;
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
void check_tensors(RunContext& context, VerifyResult& result) {
  const Session& session = context.session;
  const OpenModel output =
      open_model(context.config.output.path, context.config.model.ignore_fields);
  OutputCheck check(context, output);
  std::int64_t next = 0;
  const auto mine = [&] { return next++ % session.ranks() == session.rank(); };
  for (const TensorNode& node : context.model.graph.tensors) {
    if (mine()) check.check_tensor(node, result);
  }
  for (const LayerGraph& layer : context.model.graph.layers) {
    if (!mine()) continue;
    for (const TensorNode& node : layer.tensors) check.check_tensor(node, result);
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

VerifyResult verify_sums(const fs::path& folder) {
  VerifyResult result;
  std::map<std::string, std::string> sums = parse_sums(folder / "SHA256SUMS");
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name == "SHA256SUMS") continue;
    ++result.files;
    const auto listed = sums.find(name);
    if (listed == sums.end()) {
      result.problems.push_back(fmt::format("file '{}' is not listed in SHA256SUMS", name));
      continue;
    }
    if (sha256_file(entry.path()) != listed->second) {
      result.problems.push_back(fmt::format("file '{}' does not match SHA256SUMS", name));
    }
    sums.erase(listed);
  }
  for (const auto& [name, hash] : sums) {
    result.problems.push_back(fmt::format("file '{}' is listed in SHA256SUMS but missing", name));
  }
  return result;
}

VerifyResult verify_output(RunContext& context) {
  Session& session = context.session;
  const auto lap = context.watch.lap("verify");
  session.enter("verify");
  VerifyResult result;
  run_agreed(session, [&] {
    if (session.is_root()) result = verify_sums(context.config.output.path);
  });
  const bool damaged = any_rank(session, !result.passed());
  run_agreed(session, [&] {
    try {
      check_tensors(context, result);
    } catch (const InputError&) {
      if (!damaged) throw;  // else the sums have named the file, which need not be readable
    }
  });
  merge(session, result);
  return result;
}

}  // namespace quern
