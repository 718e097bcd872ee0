#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>

#include "pipeline/exporters/exporter.h"
#include "pipeline/run_context.h"
#include "pipeline/stages/export_plan.h"
#include "workers/task_queue.h"
#include "workers/tensors/tensor_file.h"

namespace quern {

/// This rank's share of an output's files, written by threads in the background: what is not
/// quantized from the beginning, modules as soon as their bundles are committed, in any order.
class ShardStream {
 public:
  /// What is written, and where to. Views; exporter and shards outlive the stream.
  struct Output {
    const Exporter& exporter;
    std::span<const OutputShard> shards;  ///< of all ranks
    std::span<const NamedScalar> scalars;
    const std::filesystem::path& folder;
  };

  /// Opens this rank's files. Throws StoreError.
  ShardStream(RunContext& context, const Output& output);

  /// Queues what committed bundles hold of this rank's files. Each bundle once. Throws what has
  /// failed in the background meanwhile.
  void add(std::span<const JournalEntry> bundles);

  /// Waits until all is written, and gives the files their names: their SHA-256 by name. Throws
  /// what has failed in the background.
  std::map<std::string, std::string> finish();

 private:
  struct Place {
    const OutputItem* item;
    TensorWriter* writer;
  };

  void open(const Output& output, const OutputShard& shard);
  void write_source(const Place& place) const;
  void write_bundle(const JournalEntry& entry) const;

  RunContext& context_;
  const Exporter& exporter_;
  std::map<std::string, std::unique_ptr<TensorWriter>> writers_;  ///< by file name
  std::map<std::string, Place> modules_;                          ///< by name
  std::set<std::string> bundles_;                                 ///< that hold some of them
  TaskQueue tasks_;                                               // last: its threads use the rest
};

}  // namespace quern
