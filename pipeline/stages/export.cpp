#include "pipeline/stages/export.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "kernels/core/error.h"
#include "pipeline/gather_json.h"
#include "workers/agreement.h"
#include "workers/files/atomic_file.h"
#include "workers/files/hash.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

/// What an export works on, beside the run.
struct ExportJob {
  RunContext& context;
  const Exporter& exporter;
  ExportedModel model;
  const nlohmann::json& provenance;
};

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

PartialFolder::PartialFolder(fs::path path) : path_(std::move(path)) {
  fs::remove_all(path_);
  make_directories(path_);
}

PartialFolder::~PartialFolder() {
  remove_directory(path_);  // the next export removes what is left
}

ModelExport::ModelExport(RunContext& context, const nlohmann::json& provenance)
    : context_(context),
      provenance_(provenance),
      exporter_(make_exporter(context.config.output.format, context.plan)) {
  Session& session = context.session;
  bool finished = false;
  run_agreed(session, [&] { finished = finished_export(context.config.output.path, provenance); });
  already_there_ = any_rank(session, finished);
  const bool grows =
      exporter_->container() == Container::torch || has_known_sizes(context.config.quantize);
  if (!already_there_ && grows) begin(summaries_ahead(context.plan, context.config.quantize));
}

void ModelExport::begin(std::span<const ModuleSummary> modules) {
  Session& session = context_.session;
  shards_ = plan_shards(context_, *exporter_, modules);
  run_agreed(session, [&] {
    if (session.is_root()) folder_.emplace(partial_folder(context_.config.output.path));
  });
  const fs::path folder = partial_folder(context_.config.output.path);
  run_agreed(session, [&] {
    stream_ =
        std::make_unique<ShardStream>(context_, ShardStream::Output{*exporter_, shards_, folder});
  });
}

void ModelExport::take(std::span<const JournalEntry> bundles) {
  if (stream_) stream_->add(bundles);
}

ExportResult ModelExport::finish(std::span<const ModuleSummary> modules) {
  const auto lap = context_.watch.lap("export");
  ExportResult result;
  result.folder = context_.config.output.path;
  result.already_there = already_there_;
  const std::vector<OutputShard> shards = plan_shards(context_, *exporter_, modules);
  summarise(shards, result);
  if (already_there_) return result;
  if (!stream_) {
    begin(modules);
    std::vector<JournalEntry> bundles;
    for (const BundleUnit* bundle : context_.plan.stored_bundles()) {
      bundles.push_back(context_.store.entries().at(bundle->name));
    }
    run_agreed(context_.session, [&] { take(bundles); });
  }
  write_folder(modules, shards, result);
  stream_.reset();
  return result;
}

void ModelExport::write_folder(std::span<const ModuleSummary> modules,
                               const std::vector<OutputShard>& shards, ExportResult& result) {
  Session& session = context_.session;
  session.enter("export");
  const ExportJob job{
      context_, *exporter_, {context_.model.graph, context_.config.quantize, modules}, provenance_};
  nlohmann::json sums;
  run_agreed(session, [&] { sums = stream_->finish(exporter_->scalars(job.model)); });
  result.hashes = gather_sums(session, sums);
  run_agreed(session, [&] {
    if (session.is_root()) finish_folder(job, shards, result.hashes);
  });
}

}  // namespace quern
