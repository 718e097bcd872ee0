#include "workers/store/file_skeleton.h"

#include <algorithm>
#include <array>

#include "workers/store/fletcher32.h"

namespace quern::hdf5 {
namespace {

constexpr std::array<std::byte, 4096> kZeros{};

}  // namespace

void FileSkeleton::fill(std::span<const StoredChunk> chunks, std::span<const std::byte> array) {
  for (const StoredChunk& chunk : chunks) {
    chunks_.push_back({chunk, array.subspan(chunk.array_begin, chunk.array_bytes)});
  }
}

/// Data, zeros up to the size of a chunk, checksum.
void FileSkeleton::append(Pieces& pieces, Chunk& chunk) {
  std::size_t zeros = chunk.place.stored_bytes - kChecksumBytes - chunk.data.size();
  chunk.checksum = fletcher32(chunk.data, zeros);
  pieces.push_back(chunk.data);
  for (; zeros > 0; zeros -= pieces.back().size()) {
    pieces.push_back(std::span(kZeros).first(std::min(zeros, kZeros.size())));
  }
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
