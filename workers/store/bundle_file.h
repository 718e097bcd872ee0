#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "kernels/core/tensor.h"
#include "workers/files/commit_hook.h"

namespace quern {

/// What one file of the state store holds: named arrays and a JSON text. Knows nothing of
/// quantization.
struct Bundle {
  std::string attributes;                   ///< JSON object
  std::map<std::string, HostTensor> arrays;  ///< names may contain '/'
};

/// Writes an HDF5 file (serial driver, fletcher32 on every dataset, default format bounds) to
/// `temporary`, closed but not yet durable. Same bundle, same bytes: no time stamps.
/// bf16 and fp8 arrays are stored as integers with their type in an attribute.
void write_bundle_file(const std::filesystem::path& temporary, const Bundle& bundle);

/// Throws StoreError naming the path and dataset if anything does not read back.
Bundle read_bundle_file(const std::filesystem::path& path);

}  // namespace quern
