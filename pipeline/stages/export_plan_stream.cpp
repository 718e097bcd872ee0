#include "pipeline/stages/export_plan_stream.h"

#include <algorithm>
#include <optional>
#include <ranges>
#include <utility>
#include <vector>

#include "kernels/core/error.h"
#include "pipeline/model/layer_loader.h"
#include "pipeline/model/source_tensor.h"
#include "workers/parallel.h"
#include "workers/tensors/safetensors.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr int kMostThreads = 8;                              // each holds a bundle in host memory
constexpr std::int64_t kPieceElems = std::int64_t{1} << 18;  // of a tensor that is copied

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

}  // namespace

ShardStream::ShardStream(RunContext& context, const Output& output)
    : context_(context),
      exporter_(output.exporter),
      tasks_(std::min(context.session.threads, kMostThreads)) {
  const Session& session = context.session;
  for (std::size_t i = 0; i < output.shards.size(); ++i) {
    if (static_cast<int>(i) % session.ranks() == session.rank()) open(output, output.shards[i]);
  }
  number_bundles();
}

/// A run that works backwards comes to the last layer first.
void ShardStream::number_bundles() {
  const std::vector<const BundleUnit*> bundles = context_.plan.stored_bundles();
  for (const BundleUnit* bundle : std::views::reverse(bundles)) {
    const auto is_here = [&](const PlannedModule& planned) {
      return modules_.contains(planned.module.name);
    };
    if (std::ranges::any_of(bundle->modules, is_here)) {
      turn_of_.emplace(bundle->name, turn_of_.size());
    }
  }
}

std::unique_ptr<TensorWriter> ShardStream::make_writer(const fs::path& path,
                                                       const OutputShard& shard) {
  const CommitHook& hook = context_.session.commit_hook;
  std::vector<TensorSpec> specs;
  const bool torch = exporter_.container() == Container::torch;
  for (const OutputItem& item : shard.items) {
    if (torch && item.module) continue;
    specs.insert(specs.end(), item.specs.begin(), item.specs.end());
  }
  if (!torch) return std::make_unique<SafetensorsWriter>(path, std::move(specs), hook);
  auto writer = std::make_unique<TorchWriter>(path, hook);
  writer->add(specs);
  torch_ = writer.get();
  return writer;
}

void ShardStream::open(const Output& output, const OutputShard& shard) {
  auto& writer = writers_[shard.file_name];
  writer = make_writer(output.folder / shard.file_name, shard);
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
  const auto queue = [this](const JournalEntry& entry, std::size_t turn) {
    tasks_.add([this, entry, turn] { write_bundle(entry, turn); });
  };
  for (const JournalEntry& entry : bundles) {
    const auto turn = turn_of_.find(entry.name);
    if (turn == turn_of_.end()) continue;
    if (torch_ == nullptr) {
      queue(entry, 0);
    } else {
      too_early_.emplace(turn->second, entry);
    }
  }
  // A thread that waits for its turn waits for one that was given its bundle before.
  for (auto next = too_early_.find(queued_); next != too_early_.end();
       next = too_early_.find(++queued_)) {
    queue(next->second, next->first);
    too_early_.erase(next);
  }
  tasks_.check();
}

std::map<std::string, std::string> ShardStream::finish(std::span<const NamedScalar> scalars) {
  tasks_.wait();
  if (torch_ != nullptr) torch_->set_scalars({scalars.begin(), scalars.end()});
  std::vector<std::pair<const std::string, std::string>> sums;
  for (const auto& [name, writer] : writers_) sums.emplace_back(name, "");
  run_parallel(sums.size(), context_.session.threads, [&](std::size_t i) {
    const Trace::Span span(context_.session.trace.get(), sums[i].first);
    sums[i].second = writers_.at(sums[i].first)->commit();
  });
  return {sums.begin(), sums.end()};
}

/// A tensor that is not quantized, as it will be stored; in pieces, as that of a large vocabulary
/// takes GBs. The run may not have looked at it before.
void ShardStream::write_source(const Place& place) const {
  const TensorSpec& spec = place.item->specs.front();
  const Trace::Span span(context_.session.trace.get(), "export {}", spec.name);
  const SourceTensor source(*context_.model.weights, place.item->source);
  const std::int64_t elems = spec.shape.elems();
  std::int64_t nonfinite = 0;
  std::int64_t first = 0;
  HostTensor piece;
  do {
    source.read_elems(first, std::min(kPieceElems, elems - first), piece);
    first += piece.shape.elems();
    piece = converted(std::move(piece), spec.dtype);
    nonfinite += count_nonfinite(piece);
    place.writer->append(spec.name, piece.bytes);
  } while (first < elems);
  require_finite(place.item->source, nonfinite, elems);
}

std::vector<ShardStream::MadeTensor> ShardStream::made_tensors(const JournalEntry& entry) const {
  std::optional<Bundle> stored = context_.store.read(entry);
  if (!stored) refuse_damaged(context_.store, entry.name);
  std::vector<MadeTensor> result;
  for (QuantizedModule& module : from_bundle(std::move(*stored))) {
    const auto place = modules_.find(module.name);
    if (place == modules_.end()) continue;
    const auto& [item, writer] = place->second;
    for (NamedTensor& made : exporter_.tensors(std::move(module), item->source_dtype)) {
      result.push_back({writer, std::move(made)});
    }
  }
  return result;
}

void ShardStream::write_bundle(const JournalEntry& entry, std::size_t turn) {
  const Trace::Span span(context_.session.trace.get(), "export {}", entry.name);
  std::optional<Turns::Turn> in_order;
  if (torch_ != nullptr) in_order.emplace(turns_, turn);
  const std::vector<MadeTensor> tensors = made_tensors(entry);
  if (in_order) {
    std::vector<TensorSpec> specs;
    for (const auto& [writer, made] : tensors) {
      specs.push_back({made.name, made.tensor.dtype, made.tensor.shape});
    }
    in_order->wait();
    torch_->add(specs);
    in_order.reset();
  }
  for (const auto& [writer, made] : tensors) writer->write(made.name, made.tensor.bytes);
}

}  // namespace quern
