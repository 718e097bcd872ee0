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
  void append(std::span<const std::byte> bytes) override;
  std::string finish() override;
  void add_entry(const std::string& name, std::span<const std::byte> bytes);

  HashedFile file_;
  std::uint64_t written_ = 0;
  std::size_t storages_ = 0;
  std::vector<ZipRecord> records_;
};

}  // namespace quern
