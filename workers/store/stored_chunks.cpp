#include "workers/store/stored_chunks.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <system_error>

#include "kernels/core/shape.h"
#include "workers/files/durable_file.h"
#include "workers/store/fletcher32.h"

namespace quern::hdf5 {
namespace {

using Dims = std::array<hsize_t, Shape::max_rank>;

Dims chunk_dims(const Dataset& dataset, int rank, const Place& place) {
  Dims chunk{};
  const Properties creation(
      checked(H5Dget_create_plist(dataset.get()), place, "read the properties"));
  if (checked(H5Pget_chunk(creation.get(), rank, chunk.data()), place, "read the chunks") != rank) {
    fail(place, "the chunks have another number of dimensions than the array");
  }
  return chunk;
}

/// The axis along which an array is cut; chunks are 1 before it and whole behind it.
std::size_t cut_axis(std::span<const hsize_t> dims, const Dims& chunk, const Place& place) {
  std::size_t axis = 0;
  while (axis + 1 < dims.size() && chunk[axis] == 1) ++axis;
  for (std::size_t behind = axis + 1; behind < dims.size(); ++behind) {
    if (chunk[behind] != dims[behind]) fail(place, "expected chunks of neighbouring elements");
  }
  return axis;
}

std::uint64_t product(std::span<const hsize_t> sizes) {
  std::uint64_t result = 1;
  for (const hsize_t size : sizes) result *= size;
  return result;
}

void read_at(const Descriptor& file, std::uint64_t offset, std::span<std::byte> out,
             const Place& place) {
  while (!out.empty()) {
    const ssize_t count = ::pread(file.get(), out.data(), out.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      fail(place, "cannot read a dataset: " + std::generic_category().message(errno));
    }
    if (count == 0) fail(place, "cannot read a dataset: the file ends before it");
    out = out.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
}

/// Moves to the next chunk, the last axis fastest. False behind the last one.
bool advance(Dims& begin, std::span<const hsize_t> dims, const Dims& chunk) {
  for (std::size_t axis = dims.size(); axis-- > 0;) {
    begin[axis] += chunk[axis];
    if (begin[axis] < dims[axis]) return true;
    begin[axis] = 0;
  }
  return false;
}

}  // namespace

std::vector<StoredChunk> find_chunks(const Dataset& dataset, std::span<const hsize_t> dims,
                                     std::size_t element_bytes, const Place& place) {
  const Dims chunk = chunk_dims(dataset, static_cast<int>(dims.size()), place);
  const std::size_t axis = cut_axis(dims, chunk, place);
  const std::uint64_t line_bytes = product(dims.subspan(axis + 1)) * element_bytes;
  const std::uint64_t stored_bytes = chunk[axis] * line_bytes + kChecksumBytes;
  const Space space(checked(H5Dget_space(dataset.get()), place, "read a space"));
  hsize_t count = 0;
  checked(H5Dget_num_chunks(dataset.get(), space.get(), &count), place, "count the chunks");
  std::vector<StoredChunk> chunks;
  for (hsize_t i = 0; i < count; ++i) {
    Dims begin{};
    unsigned skipped_filters = 0;
    haddr_t address = HADDR_UNDEF;
    hsize_t bytes = 0;
    checked(H5Dget_chunk_info(dataset.get(), space.get(), i, begin.data(), &skipped_filters,
                              &address, &bytes),
            place, "find a chunk");
    if (address == HADDR_UNDEF || skipped_filters != 0 || bytes != stored_bytes) {
      fail(place, fmt::format("expected chunks of {} bytes with a checksum", stored_bytes));
    }
    std::uint64_t line = 0;
    for (std::size_t a = 0; a <= axis; ++a) line = line * dims[a] + begin[a];
    const hsize_t lines = std::min(chunk[axis], dims[axis] - begin[axis]);
    chunks.push_back({line * line_bytes, lines * line_bytes, address, bytes});
  }
  return chunks;
}

std::vector<StoredChunk> allot_chunks(const Dataset& dataset, std::span<const hsize_t> dims,
                                      std::size_t element_bytes, const Place& place) {
  const Dims chunk = chunk_dims(dataset, static_cast<int>(dims.size()), place);
  const std::size_t bytes =
      product(std::span(chunk).first(dims.size())) * element_bytes + kChecksumBytes;
  const auto unread = std::make_unique_for_overwrite<std::byte[]>(bytes);
  Dims begin{};
  do {
    checked(H5Dwrite_chunk(dataset.get(), H5P_DEFAULT, 0, begin.data(), bytes, unread.get()), place,
            "allot a chunk");
  } while (advance(begin, dims, chunk));
  return find_chunks(dataset, dims, element_bytes, place);
}

void read_chunks(const Place& place, std::span<const StoredChunk> chunks,
                 std::span<std::byte> out) {
  const Descriptor file(::open(place.file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) fail(place, "cannot open the file: " + std::generic_category().message(errno));
  std::vector<std::byte> stored;
  std::uint64_t filled = 0;
  for (const StoredChunk& chunk : chunks) {
    stored.resize(chunk.stored_bytes);
    read_at(file, chunk.file_begin, stored, place);
    const std::span data = std::span(stored).first(chunk.stored_bytes - kChecksumBytes);
    std::uint32_t checksum = 0;
    std::memcpy(&checksum, data.data() + data.size(), sizeof checksum);
    if (fletcher32(data) != checksum) {
      fail(place, "cannot read a dataset: data do not fit their checksum");
    }
    if (chunk.array_begin + chunk.array_bytes > out.size()) fail(place, "a chunk is out of place");
    std::memcpy(out.data() + chunk.array_begin, data.data(), chunk.array_bytes);
    filled += chunk.array_bytes;
  }
  if (filled != out.size()) fail(place, "chunks are missing");
}

}  // namespace quern::hdf5
