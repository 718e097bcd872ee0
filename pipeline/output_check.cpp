#include "pipeline/output_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "kernels/core/fingerprint.h"
#include "kernels/core/float16.h"
#include "pipeline/exporters/exporter.h"
#include "pipeline/model/source_tensor.h"

namespace quern {
namespace {

constexpr std::int64_t kPartElems = 1 << 18;   // of an unquantized tensor
constexpr std::int64_t kBlockElems = 1 << 14;  // compared while they are in the cache

/// Whether no neighbouring bit pattern is closer to an exact value than the stored one. Without
/// branches, so that the loop vectorises.
template <float (*load)(std::uint16_t) noexcept>
[[gnu::always_inline]] inline bool all_nearest(std::span<const std::uint16_t> stored,
                                               std::span<const float> exact) {
  constexpr double kLargest = std::numeric_limits<double>::max();
  std::uint32_t wrong = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const auto value = static_cast<double>(exact[i]);
    const auto below = static_cast<std::uint16_t>(stored[i] - 1);
    const auto above = static_cast<std::uint16_t>(stored[i] + 1);
    const double distance = std::abs(static_cast<double>(load(stored[i])) - value);
    const double from_below = std::abs(static_cast<double>(load(below)) - value);
    const double from_above = std::abs(static_cast<double>(load(above)) - value);
    wrong |= static_cast<std::uint32_t>(!(distance <= kLargest)) |  // nor a number
             static_cast<std::uint32_t>(from_below < distance) |
             static_cast<std::uint32_t>(from_above < distance);
  }
  return wrong == 0;
}

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] bool all_nearest_f16(
    std::span<const std::uint16_t> stored, std::span<const float> exact) {
  return all_nearest<f16_to_float>(stored, exact);
}

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] bool all_nearest_bf16(
    std::span<const std::uint16_t> stored, std::span<const float> exact) {
  return all_nearest<bf16_to_float>(stored, exact);
}

/// Whether these exact values, at their place in the tensor, round to what is stored there.
bool is_rounding_of(const HostTensor& stored, std::uint64_t first, std::span<const float> exact) {
  if (stored.dtype == DType::f32) {
    return std::ranges::equal(std::as_bytes(exact),
                              std::as_bytes(stored.as<float>().subspan(first, exact.size())));
  }
  if (stored.dtype != DType::f16 && stored.dtype != DType::bf16) return false;
  const auto values = stored.as<std::uint16_t>().subspan(first, exact.size());
  return stored.dtype == DType::f16 ? all_nearest_f16(values, exact)
                                    : all_nearest_bf16(values, exact);
}

/// Whether the output holds the source's values, rounded where its type is another. As many.
bool same_values(const HostTensor& source, const HostTensor& stored) {
  if (stored.dtype == source.dtype) {
    return source.bytes.empty() ||
           std::memcmp(stored.bytes.data(), source.bytes.data(), source.bytes.size()) == 0;
  }
  return is_rounding_of(stored, 0, converted(source, DType::f32).as<float>());
}

std::string module_of(const TensorNode& node) {
  return node.name.substr(0, node.name.rfind('.'));
}

}  // namespace

OutputCheck::OutputCheck(RunContext& context, const OpenModel& output,
                         std::span<const ModuleSummary> modules)
    : context_(context),
      output_(output),
      committed_(*context.model.weights, context.plan, context.store) {
  for (const ModuleSummary& module : modules) reported_[module.name] = &module.metrics;
  const ModelGraph& graph = context.model.graph;
  for (const TensorNode& node : graph.tensors) tensors_.push_back(&node);
  for (const LayerGraph& layer : graph.layers) {
    for (const TensorNode& node : layer.tensors) tensors_.push_back(&node);
  }
}

bool OutputCheck::is_quantized(const TensorNode& node) const {
  return node.part == Part::weight && reported_.contains(module_of(node));
}

bool OutputCheck::lies_in_both_files(const TensorNode& node) const {
  return context_.model.weights->stored(node.name) && output_.tensors->stored(node.name);
}

std::vector<TensorPart> OutputCheck::parts() const {
  std::vector<TensorPart> parts;
  for (std::size_t tensor = 0; tensor < tensors_.size(); ++tensor) {
    const TensorNode& node = *tensors_[tensor];
    const std::int64_t elems = node.shape.elems();
    if (elems <= kPartElems || is_quantized(node) || !lies_in_both_files(node)) {
      parts.push_back({tensor, 0, elems});
      continue;
    }
    for (std::int64_t first = 0; first < elems; first += kPartElems) {
      parts.push_back({tensor, first, std::min(kPartElems, elems - first)});
    }
  }
  std::ranges::stable_sort(parts, std::greater(), &TensorPart::elems);
  return parts;
}

bool OutputCheck::passes(const TensorPart& part) const {
  const TensorNode& node = *tensors_[part.tensor];
  return is_quantized(node) ? decodes_as_reported(node) : equals_source(node, part);
}

std::string OutputCheck::problem_of(const TensorNode& node) const {
  if (!is_quantized(node)) return fmt::format("tensor '{}' differs from the source", node.name);
  return fmt::format("module '{}' decodes to other values than the quantizer reported",
                     module_of(node));
}

bool OutputCheck::equals_source(const TensorNode& node, const TensorPart& part) const {
  if (output_.tensors->entry(node.name).shape != node.shape) return false;
  const CheckpointWeights written(*output_.tensors);
  const SourceTensor source(*context_.model.weights, node.name);
  const SourceTensor stored(written, node.name);
  HostTensor source_block;
  HostTensor stored_block;
  for (std::int64_t done = 0; done < part.elems; done += kBlockElems) {
    const std::int64_t count = std::min(kBlockElems, part.elems - done);
    source.read_elems(part.first + done, count, source_block);
    stored.read_elems(part.first + done, count, stored_block);
    if (!same_values(source_block, stored_block)) return false;
  }
  return true;
}

bool OutputCheck::decodes_as_reported(const TensorNode& node) const {
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

}  // namespace quern
