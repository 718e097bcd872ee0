#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "workers/files/hashed_file.h"
#include "workers/tensors/readable_file.h"
#include "workers/tensors/safetensors_header.h"
#include "workers/tensors/tensor_file.h"

namespace quern {

/// The checked header of one safetensors file, and reads from it by pread. Everything is checked
/// in the constructor: InputError with file, tensor, what was found and what was expected.
class SafetensorsFile final : public TensorFile {
 public:
  explicit SafetensorsFile(std::filesystem::path path);
  void read(const TensorEntry& entry, std::span<std::byte> out) const override;
};

/// Writes one safetensors file through HashedFile. The header is known from the specs (sorted by
/// name, padded to 8 bytes, __metadata__ {"format": "pt"}); the data follow in the same order.
class SafetensorsWriter final : public TensorWriter {
 public:
  SafetensorsWriter(std::filesystem::path path, std::vector<TensorSpec> specs,
                    CommitHook hook = {});

 private:
  void place(std::size_t index, std::uint64_t offset, std::span<const std::byte> bytes) override;
  std::string finish() override { return file_.commit(); }

  std::string header_;
  std::vector<std::uint64_t> places_;  ///< of each tensor's data, and the end of the file
  HashedFile file_;
};

}  // namespace quern
