#include "pipeline/stages/export.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <future>
#include <map>

#include "kernels/core/error.h"
#include "pipeline/exporters/exporter.h"
#include "pipeline/gather_json.h"
#include "pipeline/model/layer_loader.h"
#include "pipeline/run_weights.h"
#include "pipeline/stages/export_plan.h"
#include "workers/agreement.h"
#include "workers/files/atomic_file.h"
#include "workers/files/hash.h"
#include "workers/tensors/safetensors.h"
#include "workers/tensors/torch_writer.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

/// A tensor that is not quantized, as it will be stored. The run may not have looked at it before.
HostTensor finite_tensor(RunContext& context, const std::string& name, DType dtype) {
  HostTensor tensor = converted(context.model.weights->read(name), dtype);
  if (!is_plain_float(dtype)) return tensor;
  Backend& backend = *context.session.backend;
  Tensor count = backend.memory().allocate(DType::i64, {1});
  backend.memory().clear(count.view());
  backend.layers().count_nonfinite(backend.memory().to_device(tensor).view(), count.view());
  require_finite(name, backend.memory().to_host(count.view()).as<std::int64_t>()[0],
                 tensor.shape.elems());
  return tensor;
}

/// What an export works on, beside the run.
struct ExportJob {
  RunContext& context;
  const Exporter& exporter;
  ExportedModel model;
  const nlohmann::json& provenance;
};

std::unique_ptr<TensorWriter> make_writer(const ExportJob& job, const fs::path& path,
                                          std::vector<TensorSpec> specs) {
  const CommitHook& hook = job.context.session.commit_hook;
  if (job.exporter.container() == Container::torch) {
    return std::make_unique<TorchWriter>(path, std::move(specs), job.exporter.scalars(job.model),
                                         hook);
  }
  return std::make_unique<SafetensorsWriter>(path, std::move(specs), hook);
}

/// The tensors of one module after another, made in the background while earlier ones are written.
class ModuleQueue {
 public:
  /// order: the modules of a shard as they are written.
  ModuleQueue(const ExportJob& job, std::vector<const OutputItem*> order)
      : job_(job),
        weights_(*job.context.model.weights, job.context.plan, job.context.store),
        order_(std::move(order)) {
    advance();
  }

  /// Those of `item`: the module in hand or the next one.
  const std::vector<NamedTensor>& tensors_of(const OutputItem& item) {
    if (in_hand_ != &item) {
      tensors_ = coming_.get();
      in_hand_ = order_[begun_ - 1];
      ensure(in_hand_ == &item, "modules written in the order announced");
      advance();
    }
    return tensors_;
  }

 private:
  void advance() {
    if (begun_ == order_.size()) return;
    coming_ = std::async(std::launch::async, [this, item = order_[begun_]] {
      const auto module = weights_.module(item->module->name);
      ensure(module.has_value(), "every planned module to be committed before the export");
      return job_.exporter.tensors(*module, item->source_dtype);
    });
    ++begun_;
  }

  const ExportJob& job_;
  RunWeights weights_;
  std::vector<const OutputItem*> order_;
  std::size_t begun_ = 0;
  const OutputItem* in_hand_ = nullptr;
  std::vector<NamedTensor> tensors_;
  std::future<std::vector<NamedTensor>> coming_;  // last: its destructor waits
};

/// Writes one shard; its SHA-256.
std::string write_shard(const ExportJob& job, const OutputShard& shard, const fs::path& folder) {
  std::vector<TensorSpec> specs;
  std::map<std::string, const OutputItem*> item_of;
  for (const OutputItem& item : shard.items) {
    for (const TensorSpec& spec : item.specs) {
      specs.push_back(spec);
      item_of[spec.name] = &item;
    }
  }
  const std::unique_ptr<TensorWriter> writer =
      make_writer(job, folder / shard.file_name, std::move(specs));
  std::vector<const OutputItem*> modules;
  for (const TensorSpec& spec : writer->specs()) {
    const OutputItem* item = item_of.at(spec.name);
    if (item->module && (modules.empty() || modules.back() != item)) modules.push_back(item);
  }
  ModuleQueue queue(job, std::move(modules));
  for (const TensorSpec& spec : writer->specs()) {
    const OutputItem& item = *item_of.at(spec.name);
    if (!item.module) {
      writer->write(spec.name, finite_tensor(job.context, item.source, spec.dtype).bytes);
      continue;
    }
    const auto& tensors = queue.tensors_of(item);
    writer->write(spec.name,
                  std::ranges::find(tensors, spec.name, &NamedTensor::name)->tensor.bytes);
  }
  return writer->commit();
}

/// Tokenizer, generation settings, licences: everything that is not weights or configuration.
void copy_side_files(const fs::path& from, const fs::path& to, const CommitHook& hook) {
  constexpr std::array kNotCopied = {".safetensors", ".bin",  ".pt",   ".pth", ".h5",
                                     ".msgpack",     ".gguf", ".onnx", ".tmp"};
  for (const fs::directory_entry& entry : fs::directory_iterator(from)) {
    const std::string name = entry.path().filename().string();
    const std::string extension = entry.path().extension().string();
    if (!entry.is_regular_file() || name.starts_with('.') || name == "config.json" ||
        name == "quantize_config.json" || name == "quant_config.json" ||
        name == "provenance.json" || name == "SHA256SUMS" || name.ends_with(".index.json") ||
        std::ranges::count(kNotCopied, extension) > 0) {
      continue;
    }
    write_text_file(to / name, read_text_file(entry.path()), hook);
  }
}

void write_index(const std::vector<OutputShard>& shards, const fs::path& folder,
                 const CommitHook& hook) {
  if (shards.size() == 1) return;
  std::uint64_t total = 0;
  std::map<std::string, std::string> weight_map;
  for (const OutputShard& shard : shards) {
    for (const OutputItem& item : shard.items) {
      total += item.bytes();
      for (const TensorSpec& spec : item.specs) weight_map[spec.name] = shard.file_name;
    }
  }
  const nlohmann::ordered_json index = {{"metadata", {{"total_size", total}}},
                                        {"weight_map", weight_map}};
  write_text_file(folder / "model.safetensors.index.json", index.dump(2) + "\n", hook);
}

void write_configuration(const ExportJob& job, const fs::path& folder) {
  const CommitHook& hook = job.context.session.commit_hook;
  const fs::path& source = job.context.model.folder;
  auto config = nlohmann::ordered_json::parse(read_text_file(source / "config.json"));
  const nlohmann::ordered_json quantization = job.exporter.quantization_config(job.model);
  config.erase("quantization_config");  // of FP8 weights, which are not passed on as such
  if (!quantization.is_null()) config["quantization_config"] = quantization;
  for (const SideFile& file : job.exporter.side_files(job.model)) {
    write_text_file(folder / file.name, file.contents.dump(2) + "\n", hook);
  }
  write_text_file(folder / "config.json", config.dump(2) + "\n", hook);
}

/// "hash  name" lines of every file, as `sha256sum -c` reads them.
void write_sums(const fs::path& folder, std::map<std::string, std::string> sums,
                const CommitHook& hook) {
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!sums.contains(name)) sums[name] = sha256_file(entry.path());
  }
  std::string text;
  for (const auto& [name, hash] : sums) text += fmt::format("{}  {}\n", hash, name);
  write_text_file(folder / "SHA256SUMS", text, hook);
}

/// Hashes of the shards this rank wrote, known to rank 0 as one map.
std::map<std::string, std::string> gather_sums(Session& session, const nlohmann::json& mine) {
  std::map<std::string, std::string> sums;
  for (const nlohmann::json& shards : gather_json(session, mine)) {
    for (const auto& [name, hash] : shards.items()) {
      sums[name] = hash;
    }
  }
  return sums;
}

fs::path partial_folder(const fs::path& folder) {
  return folder.string() + ".partial";
}

bool finished_export(const fs::path& folder, const nlohmann::json& provenance) {
  const fs::path path = folder / "provenance.json";
  if (!fs::exists(path) || !fs::exists(folder / "SHA256SUMS")) return false;
  return nlohmann::json::parse(read_text_file(path), nullptr, false) == provenance;
}

void summarise(const std::vector<OutputShard>& shards, ExportResult& result) {
  for (const OutputShard& shard : shards) {
    for (const OutputItem& item : shard.items) {
      result.bytes += item.bytes();
      if (!item.module) continue;
      result.quantized_bytes += item.bytes();
      result.quantized_weights +=
          static_cast<std::uint64_t>(item.module->out_features * item.module->in_features);
    }
  }
}

void finish_folder(const ExportJob& job, const std::vector<OutputShard>& shards,
                   const std::map<std::string, std::string>& sums) {
  const fs::path& final_folder = job.context.config.output.path;
  const fs::path folder = partial_folder(final_folder);
  const CommitHook& hook = job.context.session.commit_hook;
  write_index(shards, folder, hook);
  copy_side_files(job.context.model.folder, folder, hook);
  write_configuration(job, folder);
  write_text_file(folder / "provenance.json", job.provenance.dump(2) + "\n", hook);
  write_sums(folder, sums, hook);
  rename_durably(folder, final_folder, hook);
}

/// Collective. The whole model in the partial folder, which then gets its final name.
void write_folder(const ExportJob& job, const std::vector<OutputShard>& shards) {
  Session& session = job.context.session;
  const fs::path folder = partial_folder(job.context.config.output.path);
  nlohmann::json sums = nlohmann::json::object();
  run_agreed(session, [&] {
    for (std::size_t i = 0; i < shards.size(); ++i) {
      if (static_cast<int>(i) % session.ranks() != session.rank()) continue;
      session.enter(fmt::format("export {}", shards[i].file_name));
      const Trace::Span span(session.trace.get(), shards[i].file_name);
      sums[shards[i].file_name] = write_shard(job, shards[i], folder);
    }
  });
  const auto all_sums = gather_sums(session, sums);
  run_agreed(session, [&] {
    if (session.is_root()) finish_folder(job, shards, all_sums);
  });
}

}  // namespace

void check_output_folder(const fs::path& folder, const nlohmann::json& provenance) {
  if (!fs::exists(fs::symlink_status(folder))) return;
  if (fs::is_directory(folder) && finished_export(folder, provenance)) return;
  if (fs::is_symlink(folder) || is_mount_point(folder)) {
    throw ConfigError(fmt::format(
        "output.path: {} is a {}, which a finished folder cannot be renamed to; expected a new or "
        "empty folder; choose one {}",
        folder.string(), fs::is_symlink(folder) ? "symbolic link" : "mount point",
        fs::is_symlink(folder) ? "beside it" : "below it"));
  }
  if (fs::is_directory(folder) && fs::is_empty(folder)) return;
  throw ConfigError(
      fmt::format("output.path: {} exists and does not hold this run's output; expected "
                  "a new or empty folder; choose another path or remove it",
                  folder.string()));
}

ExportResult export_model(RunContext& context, std::span<const ModuleSummary> modules,
                          const nlohmann::json& provenance) {
  Session& session = context.session;
  const auto lap = context.watch.lap("export");
  const fs::path& final_folder = context.config.output.path;
  const auto exporter = make_exporter(context.config.output.format, context.plan);
  const std::vector<OutputShard> shards = plan_shards(context, *exporter, modules);
  ExportResult result;
  result.folder = final_folder;
  summarise(shards, result);
  run_agreed(session, [&] { result.already_there = finished_export(final_folder, provenance); });
  if (any_rank(session, result.already_there)) return result;
  const ExportJob job{
      context, *exporter, {context.model.graph, context.config.quantize, modules}, provenance};
  const fs::path folder = partial_folder(final_folder);
  run_agreed(session, [&] {
    if (!session.is_root()) return;
    fs::remove_all(folder);
    make_directories(folder);
  });
  try {
    write_folder(job, shards);
  } catch (...) {
    std::error_code ignored;  // the next export removes what is left
    if (session.is_root()) fs::remove_all(folder, ignored);
    throw;
  }
  return result;
}

}  // namespace quern
