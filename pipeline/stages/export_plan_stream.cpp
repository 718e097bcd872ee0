#include "pipeline/stages/export_plan_stream.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/core/error.h"
#include "pipeline/model/layer_loader.h"
#include "workers/parallel.h"
#include "workers/tensors/safetensors.h"
#include "workers/tensors/torch_writer.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr int kMostThreads = 8;  // each holds a bundle in host memory

/// Values whose exponent bits are all set.
template <typename Word>
std::int64_t count_nonfinite(const HostTensor& tensor, Word exponent) {
  std::int64_t found = 0;
  for (const Word word : tensor.as<Word>()) found += (word & exponent) == exponent ? 1 : 0;
  return found;
}

std::int64_t count_nonfinite(const HostTensor& tensor) {
  switch (tensor.dtype) {
    case DType::f64:
      return count_nonfinite<std::uint64_t>(tensor, 0x7FF0000000000000U);
    case DType::f32:
      return count_nonfinite<std::uint32_t>(tensor, 0x7F800000U);
    case DType::f16:
      return count_nonfinite<std::uint16_t>(tensor, 0x7C00U);
    case DType::bf16:
      return count_nonfinite<std::uint16_t>(tensor, 0x7F80U);
    default:
      return 0;
  }
}

std::unique_ptr<TensorWriter> make_writer(const ShardStream::Output& output,
                                          const OutputShard& shard, const CommitHook& hook) {
  std::vector<TensorSpec> specs;
  for (const OutputItem& item : shard.items) {
    specs.insert(specs.end(), item.specs.begin(), item.specs.end());
  }
  const fs::path path = output.folder / shard.file_name;
  if (output.exporter.container() == Container::torch) {
    const std::vector<NamedScalar> scalars(output.scalars.begin(), output.scalars.end());
    return std::make_unique<TorchWriter>(path, std::move(specs), scalars, hook);
  }
  return std::make_unique<SafetensorsWriter>(path, std::move(specs), hook);
}

}  // namespace

ShardStream::ShardStream(RunContext& context, const Output& output)
    : context_(context),
      exporter_(output.exporter),
      tasks_(std::min(context.session.threads, kMostThreads)) {
  const Session& session = context.session;
  for (std::size_t i = 0; i < output.shards.size(); ++i) {
    if (static_cast<int>(i) % session.ranks() == session.rank()) open(output, output.shards[i]);
  }
  for (const BundleUnit* bundle : context.plan.stored_bundles()) {
    const auto is_here = [&](const PlannedModule& planned) {
      return modules_.contains(planned.module.name);
    };
    if (std::ranges::any_of(bundle->modules, is_here)) bundles_.insert(bundle->name);
  }
}

void ShardStream::open(const Output& output, const OutputShard& shard) {
  auto& writer = writers_[shard.file_name];
  writer = make_writer(output, shard, context_.session.commit_hook);
  for (const OutputItem& item : shard.items) {
    const Place place{&item, writer.get()};
    if (item.module) {
      modules_[item.module->name] = place;
    } else {
      tasks_.add([this, place] { write_source(place); });
    }
  }
}

void ShardStream::add(std::span<const JournalEntry> bundles) {
  for (const JournalEntry& entry : bundles) {
    if (bundles_.contains(entry.name)) tasks_.add([this, entry] { write_bundle(entry); });
  }
  tasks_.check();
}

std::map<std::string, std::string> ShardStream::finish() {
  tasks_.wait();
  std::vector<std::pair<const std::string, std::string>> sums;
  for (const auto& [name, writer] : writers_) sums.emplace_back(name, "");
  run_parallel(sums.size(), context_.session.threads, [&](std::size_t i) {
    const Trace::Span span(context_.session.trace.get(), sums[i].first);
    sums[i].second = writers_.at(sums[i].first)->commit();
  });
  return {sums.begin(), sums.end()};
}

/// A tensor that is not quantized, as it will be stored. The run may not have looked at it before.
void ShardStream::write_source(const Place& place) const {
  const TensorSpec& spec = place.item->specs.front();
  const Trace::Span span(context_.session.trace.get(), "export {}", spec.name);
  const HostTensor tensor = converted(context_.model.weights->read(place.item->source), spec.dtype);
  require_finite(place.item->source, count_nonfinite(tensor), tensor.shape.elems());
  place.writer->write(spec.name, tensor.bytes);
}

void ShardStream::write_bundle(const JournalEntry& entry) const {
  const Trace::Span span(context_.session.trace.get(), "export {}", entry.name);
  std::optional<Bundle> stored = context_.store.read(entry);
  if (!stored) refuse_damaged(context_.store, entry.name);
  for (QuantizedModule& module : from_bundle(std::move(*stored))) {
    const auto place = modules_.find(module.name);
    if (place == modules_.end()) continue;
    const DType source_dtype = place->second.item->source_dtype;
    for (const NamedTensor& made : exporter_.tensors(std::move(module), source_dtype)) {
      place->second.writer->write(made.name, made.tensor.bytes);
    }
  }
}

}  // namespace quern
