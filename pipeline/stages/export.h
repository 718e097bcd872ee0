#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pipeline/quantized_module.h"
#include "pipeline/run_context.h"
#include "pipeline/stages/export_plan.h"
#include "pipeline/stages/export_plan_stream.h"

namespace quern {

/// What an export wrote.
struct ExportResult {
  std::filesystem::path folder;
  std::uint64_t bytes = 0;              ///< of all weight files
  std::uint64_t quantized_bytes = 0;    ///< of the tensors that stand for quantized modules
  std::uint64_t quantized_weights = 0;  ///< their number of weights
  bool already_there = false;           ///< an earlier run finished it
  /// SHA-256 of the files that this job wrote and read back, by name; on rank 0.
  std::map<std::string, std::string> hashes;

  double bits_per_weight() const noexcept {
    return quantized_weights == 0 ? 0.0
                                  : 8.0 * static_cast<double>(quantized_bytes) /
                                        static_cast<double>(quantized_weights);
  }
};

/// Throws ConfigError unless output.path is free, empty, or holds a finished export with the same
/// provenance. Called before the work starts, so that nothing is computed in vain. Any rank.
void check_output_folder(const std::filesystem::path& folder, const nlohmann::json& provenance);

/// A new, empty folder, which goes with this object unless it was renamed.
class PartialFolder {
 public:
  /// Throws StoreError, or std::filesystem::filesystem_error.
  explicit PartialFolder(std::filesystem::path path);
  ~PartialFolder();
  PartialFolder(const PartialFolder&) = delete;             // one owner
  PartialFolder& operator=(const PartialFolder&) = delete;  // likewise

 private:
  std::filesystem::path path_;
};

/// The export of a run's model. Unless all must be known to lay out the output, its files grow in
/// the background while modules are solved, and finish() has little left to do.
/// Ranks write their shards into "<output.path>.partial"; then rank 0 adds side files,
/// configuration, provenance.json and SHA256SUMS, and renames the folder. The bytes depend on
/// model, data and configuration alone.
class ModelExport {
 public:
  /// Collective. Begins what can be begun. The arguments outlive this object.
  ModelExport(RunContext& context, const nlohmann::json& provenance);
  /// Removes what was not finished.
  ~ModelExport() = default;
  ModelExport(const ModelExport&) = delete;             // threads work for it
  ModelExport& operator=(const ModelExport&) = delete;  // likewise

  /// Takes bundles as they are committed, each once; on every rank. Throws what has failed in the
  /// background meanwhile.
  void take(std::span<const JournalEntry> bundles);

  /// Collective. Writes what is not written yet, and gives the folder its name.
  /// modules: of the whole plan, in its order, all of them committed.
  ExportResult finish(std::span<const ModuleSummary> modules);

 private:
  void begin(std::span<const ModuleSummary> modules);
  void write_folder(std::span<const ModuleSummary> modules, const std::vector<OutputShard>& shards,
                    ExportResult& result);

  RunContext& context_;
  const nlohmann::json& provenance_;
  std::unique_ptr<Exporter> exporter_;
  bool already_there_ = false;
  std::vector<OutputShard> shards_;      ///< of the stream
  std::optional<PartialFolder> folder_;  ///< on rank 0
  std::unique_ptr<ShardStream> stream_;  ///< none: nothing is begun
};

}  // namespace quern
