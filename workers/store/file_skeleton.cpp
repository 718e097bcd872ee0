#include "workers/store/file_skeleton.h"

#include <algorithm>

#include "workers/store/fletcher32.h"

namespace quern::hdf5 {

void FileSkeleton::fill(std::span<const StoredChunk> chunks, std::span<const std::byte> array) {
  for (const StoredChunk& chunk : chunks) {
    chunks_.push_back({chunk, array.subspan(chunk.array_begin, chunk.array_bytes)});
  }
}

/// Data, zeros up to the size of a chunk, checksum. libhdf5 left nothing where the zeros are.
void FileSkeleton::append(Pieces& pieces, Chunk& chunk) const {
  const std::uint64_t data_end = chunk.place.file_begin + chunk.data.size();
  const std::uint64_t end = chunk.place.file_begin + chunk.place.stored_bytes - kChecksumBytes;
  chunk.checksum = fletcher32(chunk.data, end - data_end);
  pieces.push_back(chunk.data);
  structure_.view(data_end, end, pieces);
  pieces.push_back(std::as_bytes(std::span(&chunk.checksum, 1)));
}

std::vector<std::span<const std::byte>> FileSkeleton::pieces() {
  std::ranges::sort(chunks_, {}, [](const Chunk& chunk) { return chunk.place.file_begin; });
  Pieces pieces;
  std::uint64_t written = 0;
  for (Chunk& chunk : chunks_) {
    structure_.view(written, chunk.place.file_begin, pieces);
    append(pieces, chunk);
    written = chunk.place.file_begin + chunk.place.stored_bytes;
  }
  structure_.view(written, structure_.size(), pieces);
  return pieces;
}

}  // namespace quern::hdf5
