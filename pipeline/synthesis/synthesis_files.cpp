#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <future>
#include <map>
#include <memory>
#include <utility>

#include "kernels/core/error.h"
#include "pipeline/synthesis/synthesis.h"
#include "pipeline/synthesis/synthetic_values.h"
#include "workers/files/atomic_file.h"
#include "workers/tensors/safetensors_header.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kPieceElems = 1 << 19;  ///< what one thread makes and writes at a time
constexpr double kLargestE4m3 = 448.0;
constexpr std::array kTokenizerFiles = {"tokenizer.json",
                                        "tokenizer_config.json",
                                        "vocab.json",
                                        "merges.txt",
                                        "added_tokens.json",
                                        "tokenizer.model",
                                        "special_tokens_map.json",
                                        "chat_template.jinja",
                                        "generation_config.json"};

/// A part of a tensor, and its place in the file.
struct Piece {
  const SyntheticTensor* tensor;
  std::uint64_t begin;  ///< first element
  std::uint64_t elems;
  std::uint64_t offset;
};

/// The distribution of each kind of tensor.
class ValueTables {
 public:
  explicit ValueTables(double deviation) : deviation_(deviation) {}

  /// Not thread-safe.
  const SyntheticValues& of(const SyntheticTensor& tensor) {
    const std::pair key(tensor.kind, tensor.spec.dtype);
    const auto found = tables_.find(key);
    if (found != tables_.end()) return found->second;
    return tables_.emplace(key, make(tensor.kind, tensor.spec.dtype)).first->second;
  }

 private:
  SyntheticValues make(SyntheticKind kind, DType dtype) const {
    const double fill = kLargestE4m3 / farthest_deviation();
    switch (kind) {
      case SyntheticKind::bias:
        return {dtype, 0.0, 0.1 * deviation_};
      case SyntheticKind::norm:
        return {dtype, 1.0, deviation_};
      case SyntheticKind::fp8_weight:
        return {dtype, 0.0, fill};
      case SyntheticKind::fp8_scale:
        return {dtype, deviation_ / fill, 0.05 * deviation_ / fill};
      default:
        return {dtype, 0.0, deviation_};
    }
  }

  double deviation_;
  std::map<std::pair<SyntheticKind, DType>, SyntheticValues> tables_;
};

std::vector<TensorSpec> specs_of(const SyntheticShard& shard) {
  std::vector<TensorSpec> specs;
  for (const SyntheticTensor& tensor : shard.tensors) specs.push_back(tensor.spec);
  return specs;
}

std::vector<Piece> cut_into_pieces(const SyntheticShard& shard, std::uint64_t offset) {
  std::vector<Piece> pieces;
  for (const SyntheticTensor& tensor : shard.tensors) {
    const auto elems = static_cast<std::uint64_t>(tensor.spec.shape.elems());
    for (std::uint64_t begin = 0; begin < elems; begin += kPieceElems) {
      pieces.push_back({&tensor, begin, std::min(kPieceElems, elems - begin), offset});
      offset += pieces.back().elems * dtype_bytes(tensor.spec.dtype);
    }
  }
  return pieces;
}

/// One thread's share: whatever piece is next, until there is none or another thread failed.
void write_pieces(const std::vector<Piece>& pieces, std::atomic<std::size_t>& next,
                  const AtomicFile& file,
                  const std::function<void(const Piece&, std::span<std::byte>)>& fill) {
  std::vector<std::byte> buffer;
  try {
    for (std::size_t i = next++; i < pieces.size(); i = next++) {
      buffer.resize(pieces[i].elems * dtype_bytes(pieces[i].tensor->spec.dtype));
      fill(pieces[i], buffer);
      file.write_at(pieces[i].offset, buffer);
    }
  } catch (...) {
    next = pieces.size();
    throw;
  }
}

/// Writes one shard but for its name, which commit() gives.
std::unique_ptr<AtomicFile> write_shard(const SyntheticShard& shard, const fs::path& folder,
                                        const SynthesisTarget& target, ValueTables& tables) {
  const std::string header = format_safetensors_header(specs_of(shard));
  auto file = std::make_unique<AtomicFile>(folder / shard.file_name, target.hook);
  file->write(header);
  const std::vector<Piece> pieces = cut_into_pieces(shard, header.size());
  std::map<const SyntheticTensor*, std::pair<const SyntheticValues*, std::uint64_t>> sources;
  std::uint64_t bytes = 0;
  for (const SyntheticTensor& tensor : shard.tensors) {
    sources[&tensor] = {&tables.of(tensor), synthetic_key(target.seed, tensor.spec.name)};
    bytes += static_cast<std::uint64_t>(tensor.spec.shape.elems()) * dtype_bytes(tensor.spec.dtype);
  }
  file->extend(bytes);
  std::atomic<std::size_t> next = 0;
  const auto fill = [&](const Piece& piece, std::span<std::byte> out) {
    const auto [values, key] = sources.at(piece.tensor);
    values->fill(key, piece.begin, out);
  };
  std::vector<std::future<void>> threads;
  for (int i = 0; i < target.threads; ++i) {
    threads.push_back(
        std::async(std::launch::async, [&] { write_pieces(pieces, next, *file, fill); }));
  }
  for (std::future<void>& thread : threads) thread.wait();
  for (std::future<void>& thread : threads) thread.get();
  if (target.wrote_shard) target.wrote_shard(shard.file_name, header.size() + bytes);
  return file;
}

/// One shard goes to the disk while the next one is made.
void write_shards(const Synthesis& synthesis, const fs::path& folder,
                  const SynthesisTarget& target) {
  ValueTables tables(synthesis.deviation);
  std::future<void> committing;
  for (const SyntheticShard& shard : synthesis.shards) {
    std::unique_ptr<AtomicFile> file = write_shard(shard, folder, target, tables);
    if (committing.valid()) committing.get();
    committing = std::async(std::launch::async, [done = std::move(file)] { done->commit(); });
  }
  committing.get();
}

std::vector<std::string> tokenizer_files(const fs::path& folder) {
  std::vector<std::string> names;
  for (const char* name : kTokenizerFiles) {
    if (fs::is_regular_file(folder / name)) names.emplace_back(name);
  }
  const auto has = [&](const char* name) { return std::ranges::count(names, name) > 0; };
  if (has("tokenizer.json") || (has("vocab.json") && has("merges.txt"))) return names;
  throw InputError(
      fmt::format("--tokenizer: {} has neither tokenizer.json nor vocab.json and merges.txt; "
                  "expected the folder of a Hugging Face tokenizer",
                  folder.string()));
}

void write_index(const Synthesis& synthesis, const fs::path& folder, const CommitHook& hook) {
  if (synthesis.shards.size() == 1) return;
  std::map<std::string, std::string> weight_map;
  for (const SyntheticShard& shard : synthesis.shards) {
    for (const SyntheticTensor& tensor : shard.tensors) {
      weight_map[tensor.spec.name] = shard.file_name;
    }
  }
  const nlohmann::ordered_json index = {{"metadata", {{"total_size", synthesis.tensor_bytes()}}},
                                        {"weight_map", weight_map}};
  write_text_file(folder / "model.safetensors.index.json", index.dump(2) + "\n", hook);
}

/// Without a trailing slash or dots, so that a name can be made of it.
fs::path plain_path(const fs::path& folder) {
  const fs::path path = fs::absolute(folder).lexically_normal();
  return path.has_filename() ? path : path.parent_path();
}

void check_folder(const fs::path& folder) {
  const fs::file_status status = fs::symlink_status(folder);
  if (!fs::exists(status)) return;
  if (fs::is_directory(status) && !is_mount_point(folder) && fs::is_empty(folder)) return;
  throw ConfigError(fmt::format(
      "--output: {} {}; expected a new or empty folder; choose another path, or remove it",
      folder.string(),
      fs::is_directory(status) && !is_mount_point(folder) ? "is not empty"
                                                          : "is no ordinary folder"));
}

/// Throws unless the file system that will hold `folder` has room for the model.
void check_room(const Synthesis& synthesis, const fs::path& folder) {
  fs::path there = folder;
  while (!fs::exists(there) && there.has_relative_path()) there = there.parent_path();
  std::uint64_t needed = synthesis.tensor_bytes();
  for (const SyntheticShard& shard : synthesis.shards) {
    needed += format_safetensors_header(specs_of(shard)).size();
  }
  const std::uint64_t free = fs::space(there).available;
  if (needed <= free) return;
  throw StoreError(fmt::format(
      "--output: {} needs {} bytes ({:.1f} GB), {} bytes ({:.1f} GB) are free at {}; nothing was "
      "written; free space, choose another file system, or ask for fewer --layers",
      folder.string(), needed, static_cast<double>(needed) * 1e-9, free,
      static_cast<double>(free) * 1e-9, there.string()));
}

}  // namespace

void write_synthesis(const Synthesis& synthesis, const SynthesisTarget& target) {
  const fs::path finished = plain_path(target.folder);
  check_folder(finished);
  std::vector<std::string> tokenizer;
  if (!target.tokenizer.empty()) tokenizer = tokenizer_files(target.tokenizer);
  check_room(synthesis, finished);
  const fs::path folder = finished.string() + ".partial";
  fs::remove_all(folder);
  make_directories(folder, target.hook);
  try {
    write_shards(synthesis, folder, target);
    for (const std::string& name : tokenizer) {
      write_text_file(folder / name, read_text_file(target.tokenizer / name), target.hook);
    }
    write_text_file(folder / "config.json", synthesis.config.dump(2) + "\n", target.hook);
    write_index(synthesis, folder, target.hook);
    rename_durably(folder, finished, target.hook);
  } catch (...) {
    remove_directory(folder);  // the next attempt removes what is left
    throw;
  }
}

}  // namespace quern
