#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "workers/files/hashed_file.h"
#include "workers/tensors/tensor_file.h"
#include "workers/tensors/zip_format.h"

namespace quern {

/// Writes a file as torch.save would: a dict of tensors and whole numbers, which
/// torch.load(weights_only=True) reads, also mapped into memory. Without time stamps: equal
/// contents are equal bytes.
class TorchWriter final : public TensorWriter {
 public:
  TorchWriter(const std::filesystem::path& path, std::vector<TensorSpec> specs,
              const std::vector<NamedScalar>& scalars, CommitHook hook = {});

 private:
  void place(std::size_t index, std::span<const std::byte> bytes) override;
  std::string finish() override;
  void put(std::size_t entry, std::span<const std::byte> bytes);

  std::string pickle_;
  std::vector<ZipRecord> records_;  ///< in the order of the file: two, the tensors, one
  std::uint64_t directory_;         ///< its place, behind the entries
  HashedFile file_;
};

}  // namespace quern
