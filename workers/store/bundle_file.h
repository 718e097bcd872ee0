#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "kernels/core/tensor.h"
#include "workers/files/commit_hook.h"

namespace quern {

/// What one file of the state store holds: named arrays and a JSON text. Knows nothing of
/// quantization.
struct Bundle {
  std::string attributes;                    ///< JSON object, of any length
  std::map<std::string, HostTensor> arrays;  ///< names may contain '/', as in is_store_name()
};

/// Length and xxh3_hex of a file, taken from the bytes in memory before they met the disk.
struct WrittenFile {
  std::uint64_t bytes = 0;
  std::string hash;
};

/// Writes an HDF5 file (fletcher32 on every dataset, default format bounds) durably under its final
/// name, through AtomicFile. Same bundle, same bytes: no time stamps.
/// Datasets: "attributes" (u8 text) and "arrays/<name>", each with its type's name in the HDF5
/// attribute "dtype" and its rank in "rank" (a scalar is stored as one element of rank 1).
/// bf16 and fp8 arrays are stored as unsigned integers, f16 as an IEEE half, booleans as u8.
/// libhdf5 makes the structure in host memory, so it never meets a full disk (it can abort the
/// process at exit after one); the arrays are written from where they lie, by any number of threads
/// at once.
WrittenFile write_bundle_file(const std::filesystem::path& final_path, const Bundle& bundle,
                              const CommitHook& hook = {});

/// Throws StoreError naming the path and dataset if anything does not read back as it was written.
/// libhdf5 trusts structure it reads: pass only files whose hash was checked. Any thread.
Bundle read_bundle_file(const std::filesystem::path& path);
/// Its attributes alone; likewise.
std::string read_bundle_attributes(const std::filesystem::path& path);

/// "HDF5 1.10.8"
std::string hdf5_library_version();

}  // namespace quern
