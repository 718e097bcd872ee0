#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "workers/store/hdf5_library.h"

namespace quern::hdf5 {

constexpr std::uint64_t kChecksumBytes = 4;

/// Where a run of an array's bytes lies in a file, its fletcher32 behind it.
struct StoredChunk {
  std::uint64_t array_begin = 0;
  std::uint64_t array_bytes = 0;  ///< less than are stored where the array ends in the chunk
  std::uint64_t file_begin = 0;
  std::uint64_t stored_bytes = 0;  ///< checksum included
};

/// The chunks of a dataset of these dimensions, which are whole trailing axes and at most a part of
/// one other. Uses libhdf5; reads no data. Throws StoreError if they are others.
std::vector<StoredChunk> find_chunks(const Dataset& dataset, std::span<const hsize_t> dims,
                                     std::size_t element_bytes, const Place& place);

/// Has libhdf5 allot the chunks of a new dataset and returns them. Their data are still to be
/// written: for files of create_skeleton(), to which nothing is written here either.
std::vector<StoredChunk> allot_chunks(const Dataset& dataset, std::span<const hsize_t> dims,
                                      std::size_t element_bytes, const Place& place);

/// An array's bytes from its chunks, without libhdf5: any number of threads at once. Throws
/// StoreError if the file ends before, cannot be read or does not fit its checksums.
void read_chunks(const Place& place, std::span<const StoredChunk> chunks, std::span<std::byte> out);

}  // namespace quern::hdf5
