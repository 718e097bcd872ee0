#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>

#include "workers/tensors/pickle.h"
#include "workers/tensors/readable_file.h"
#include "workers/tensors/tensor_file.h"
#include "workers/tensors/zip_archive.h"

namespace quern {

/// A file of torch.save (.bin, .pt): a dict of tensors and whole numbers, read without executing
/// anything. Everything is checked in the constructor: InputError with file, tensor, what was found
/// and what was expected. Tensors may share storages, and may be transposed.
class TorchFile final : public TensorFile {
 public:
  explicit TorchFile(std::filesystem::path path);

  const std::filesystem::path& path() const noexcept override { return file_.path(); }
  const std::map<std::string, TensorEntry>& entries() const noexcept override { return entries_; }
  const std::map<std::string, std::int64_t>& scalars() const noexcept override { return scalars_; }
  std::uint64_t file_bytes() const noexcept override { return file_.bytes(); }
  const std::string& header_hash() const noexcept override { return header_hash_; }

  void read(const TensorEntry& entry, std::span<std::byte> out) const override;
  void read_at(std::uint64_t offset, std::span<std::byte> out) const override;

 private:
  ReadableFile file_;
  std::map<std::string, TensorEntry> entries_;
  std::map<std::string, std::int64_t> scalars_;
  std::string header_hash_;
};

}  // namespace quern
