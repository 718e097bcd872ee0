#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "pipeline/exporters/exporter.h"
#include "pipeline/run_context.h"
#include "pipeline/stages/export_plan.h"
#include "workers/task_queue.h"
#include "workers/tensors/torch_writer.h"
#include "workers/turns.h"

namespace quern {

/// This rank's share of an output's files, written by threads in the background: what is not
/// quantized from the beginning, modules as soon as their bundles are committed. In safetensors
/// files every tensor has its place beforehand. In a torch file bundles follow one another in the
/// order of a run that works backwards, whoever commits them when: their sizes may be unknown.
class ShardStream {
 public:
  /// What is written, and where to. Views; exporter and shards outlive the stream.
  struct Output {
    const Exporter& exporter;
    std::span<const OutputShard> shards;  ///< of all ranks
    const std::filesystem::path& folder;
  };

  /// Opens this rank's files. Throws StoreError.
  ShardStream(RunContext& context, const Output& output);

  /// Queues what committed bundles hold of this rank's files. Each bundle once. Throws what has
  /// failed in the background meanwhile.
  void add(std::span<const JournalEntry> bundles);

  /// Waits until all is written, and gives the files their names: their SHA-256 by name. Throws
  /// what has failed in the background. scalars: of a torch file.
  std::map<std::string, std::string> finish(std::span<const NamedScalar> scalars);

 private:
  struct Place {
    const OutputItem* item;
    TensorWriter* writer;
  };
  struct MadeTensor {
    TensorWriter* writer;
    NamedTensor named;
  };

  void open(const Output& output, const OutputShard& shard);
  std::unique_ptr<TensorWriter> make_writer(const std::filesystem::path& path,
                                            const OutputShard& shard);
  void number_bundles();
  void write_source(const Place& place) const;
  void write_bundle(const JournalEntry& entry, std::size_t turn);
  std::vector<MadeTensor> made_tensors(const JournalEntry& entry) const;

  RunContext& context_;
  const Exporter& exporter_;
  std::map<std::string, std::unique_ptr<TensorWriter>> writers_;  ///< by file name
  TorchWriter* torch_ = nullptr;                                  ///< if it is one of them
  std::map<std::string, Place> modules_;                          ///< by name
  std::map<std::string, std::size_t> turn_of_;     ///< of bundles that hold some of them
  std::map<std::size_t, JournalEntry> too_early_;  ///< for a torch file; by turn
  std::size_t queued_ = 0;                         ///< turns whose bundles went to the threads
  Turns turns_;
  TaskQueue tasks_;  // last: its threads use the rest
};

}  // namespace quern
