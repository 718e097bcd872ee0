#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/core/tensor.h"
#include "workers/tensors/tensor_file.h"

namespace quern {

/// A tensor whose elements lie in a file one after the other, so that parts can be read.
struct StoredTensor {
  const TensorFile* file = nullptr;  ///< lives as long as its source
  DType dtype = DType::f32;
  std::uint64_t begin = 0;  ///< in the file
  std::uint64_t bytes = 0;

  /// Bytes of the tensor from `offset` on. Thread-safe; StoreError and InputError name the file.
  void read(std::uint64_t offset, std::span<std::byte> out) const;
};

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
  /// nullopt for a tensor with strides.
  std::optional<StoredTensor> stored(const std::string& name) const;

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

}  // namespace quern
