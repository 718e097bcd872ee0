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
  void read(const TensorEntry& entry, std::span<std::byte> out) const override;
};

}  // namespace quern
