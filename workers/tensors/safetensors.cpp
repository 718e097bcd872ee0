#include "workers/tensors/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kernels/core/error.h"
#include "workers/files/hash.h"

namespace quern {
namespace {

/// Length of the header, checked against the file.
std::uint64_t header_bytes(const ReadableFile& file) {
  const std::string path = file.path().string();
  if (file.bytes() < kSafetensorsPrefixBytes) {
    throw InputError(
        fmt::format("{}: the file has {} bytes, expected at least {} for the length "
                    "of its header; it is not a safetensors file, or it is truncated",
                    path, file.bytes(), kSafetensorsPrefixBytes));
  }
  std::uint64_t length = 0;
  file.read_at(0, std::as_writable_bytes(std::span(&length, 1)));
  if (length > kSafetensorsMaxHeaderBytes) {
    throw InputError(
        fmt::format("{}: the header length is {}, expected at most {}; this is not a "
                    "safetensors file, or it is damaged",
                    path, length, kSafetensorsMaxHeaderBytes));
  }
  if (length > file.bytes() - kSafetensorsPrefixBytes) {
    throw InputError(
        fmt::format("{}: truncated: the file has {} bytes, its header alone ends at "
                    "byte {}; download it again",
                    path, file.bytes(), kSafetensorsPrefixBytes + length));
  }
  if (length < 2) {
    throw InputError(
        fmt::format("{}: the header length is {}, expected at least 2 for \"{{}}\"", path, length));
  }
  return length;
}

std::vector<TensorSpec> sorted_by_name(std::vector<TensorSpec> specs) {
  std::ranges::sort(specs, {}, &TensorSpec::name);
  return specs;
}

/// Where each tensor begins behind the header, and where the last one ends.
std::vector<std::uint64_t> places_behind(std::uint64_t header, std::span<const TensorSpec> specs) {
  std::vector<std::uint64_t> places = {header};
  for (const TensorSpec& spec : specs) places.push_back(places.back() + bytes_of(spec));
  return places;
}

}  // namespace

SafetensorsFile::SafetensorsFile(std::filesystem::path path) : TensorFile(std::move(path)) {
  std::string header(header_bytes(file_), '\0');
  const auto bytes = std::as_writable_bytes(std::span(header));
  file_.read_at(kSafetensorsPrefixBytes, bytes);
  entries_ = parse_safetensors_header(header, file_.bytes(), file_.path());
  header_hash_ = xxh3_hex(bytes);
}

void SafetensorsFile::read(const TensorEntry& entry, std::span<std::byte> out) const {
  ensure(out.size() == entry.bytes, "an output of the tensor's size");
  file_.read_at(entry.begin, out);
}

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path, std::vector<TensorSpec> specs,
                                     CommitHook hook)
    : header_(format_safetensors_header(announce(sorted_by_name(std::move(specs))))),
      places_(places_behind(header_.size(), this->specs())),
      file_(std::move(path), places_.back(), std::move(hook)) {
  file_.write_at(0, std::as_bytes(std::span(header_)));
}

void SafetensorsWriter::place(std::size_t index, std::uint64_t offset,
                              std::span<const std::byte> bytes) {
  file_.write_at(places_[index] + offset, bytes);
}

}  // namespace quern
