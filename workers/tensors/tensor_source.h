#pragma once

#include <cstdint>
#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/core/tensor.h"
#include "workers/tensors/tensor_file.h"

namespace quern {

/// All tensors of a checkpoint folder: model.safetensors, or without it the shards of
/// model.safetensors.index.json; without either pytorch_model.bin, or its index; without any of
/// them, beside a quant_config.json, the one .pt file. Headers are opened and checked once; the
/// index must agree with the shards name by name (InputError: missing shard, tensor in index but
/// not in shard, tensor in two shards, shard file outside the folder).
class TensorSource {
 public:
  explicit TensorSource(std::filesystem::path folder);

  const std::filesystem::path& folder() const noexcept { return folder_; }
  bool contains(const std::string& name) const { return location_.contains(name); }
  /// Type, shape, size. Throws InputError naming the tensor and the folder if absent.
  const TensorEntry& entry(const std::string& name) const;
  /// File name of the shard that holds the tensor, without folder.
  std::string shard_name(const std::string& name) const;
  std::vector<std::string> names() const;  ///< sorted
  /// Whole number that a torch file keeps under this name; empty if there is none.
  std::optional<std::int64_t> scalar(const std::string& name) const;

  /// Thread-safe.
  HostTensor read(const std::string& name) const;

  /// Identity of the checkpoint without reading all of it: sizes and header hashes of all shards,
  /// and 64 KiB at 64 evenly spaced places of each (whole files up to 4 MiB). Hexadecimal.
  std::string fingerprint() const;

 private:
  void open();
  void add_shard(std::unique_ptr<TensorFile> file);
  void check_index(const std::filesystem::path& index,
                   const std::map<std::string, std::string>& shard_of) const;
  const TensorFile& shard(const std::string& name) const;

  std::filesystem::path folder_;
  std::vector<std::unique_ptr<TensorFile>> shards_;
  std::map<std::string, std::size_t> location_;  ///< tensor name -> index into shards_
};

/// Reads tensors on a thread of its own, ahead of their use. One request at a time is in flight:
/// start the next layer while the current one computes.
class TensorPrefetch {
 public:
  explicit TensorPrefetch(const TensorSource& source) : source_(source) {}

  /// Begins to read; replaces a request that was never taken.
  void start(std::vector<std::string> names);
  /// The tensors in the order asked for; reads now whatever was not started. A started request is
  /// used up by the first call that asks for one of its tensors. Rethrows its errors.
  std::vector<HostTensor> take(const std::vector<std::string>& names);

 private:
  const TensorSource& source_;
  std::vector<std::string> started_;
  std::future<std::vector<HostTensor>> pending_;
};

}  // namespace quern
