#pragma once

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "workers/files/hashed_file.h"
#include "workers/tensors/tensor_file.h"
#include "workers/tensors/zip_format.h"

namespace quern {

/// Writes a file as torch.save would: a dict of tensors and whole numbers, which
/// torch.load(weights_only=True) reads, also mapped into memory. Tensors are announced as they come
/// up, and the pickle that describes them is last in the file, so that it grows before all is
/// known. Without time stamps: equal contents in one order are equal bytes.
class TorchWriter final : public TensorWriter {
 public:
  explicit TorchWriter(const std::filesystem::path& path, CommitHook hook = {});

  /// Tensors to be written behind those that were added before, in this order. Thread-safe.
  void add(std::span<const TensorSpec> specs);
  /// What stands in the dict behind the tensors. Before commit().
  void set_scalars(std::vector<NamedScalar> scalars) { scalars_ = std::move(scalars); }

 private:
  void place(std::size_t index, std::uint64_t offset, std::span<const std::byte> bytes) override;
  std::string finish() override;
  std::size_t add_record(const std::string& name, std::uint64_t bytes);
  void put(std::size_t record, std::uint64_t offset, std::span<const std::byte> bytes);

  std::vector<NamedScalar> scalars_;
  std::mutex mutex_;                ///< guards the two below
  std::vector<ZipRecord> records_;  ///< in the order of the file: two, then the tensors
  std::uint64_t end_ = 0;           ///< of them
  HashedFile file_;
};

}  // namespace quern
