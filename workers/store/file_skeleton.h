#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "workers/store/skeleton_driver.h"
#include "workers/store/stored_chunks.h"

namespace quern::hdf5 {

/// A new HDF5 file whose structure libhdf5 makes in memory, while the data of its arrays stay where
/// they are: libhdf5 allots their places, and the file is written from pieces() without it.
class FileSkeleton {
 public:
  FileSkeleton() = default;
  ~FileSkeleton() = default;
  FileSkeleton(const FileSkeleton&) = delete;             // libhdf5 keeps its address
  FileSkeleton& operator=(const FileSkeleton&) = delete;  // likewise

  /// The file, empty. Close it before pieces(), and before this object ends.
  File create(const Place& place) { return create_skeleton(place, structure_); }
  /// What the chunks of a dataset hold, which allot_chunks() found a place. `array` must outlive
  /// the pieces.
  void fill(std::span<const StoredChunk> chunks, std::span<const std::byte> array);

  /// The whole file in order, with the checksums of its chunks, which are taken here. Without
  /// libhdf5: several threads at once, each with its own file. Valid as long as this object.
  std::vector<std::span<const std::byte>> pieces();

 private:
  using Pieces = std::vector<std::span<const std::byte>>;

  struct Chunk {
    StoredChunk place;
    std::span<const std::byte> data;
    std::uint32_t checksum = 0;
  };

  void append(Pieces& pieces, Chunk& chunk) const;

  SparseBytes structure_;
  std::vector<Chunk> chunks_;
};

}  // namespace quern::hdf5
