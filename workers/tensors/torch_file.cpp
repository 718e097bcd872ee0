#include "workers/tensors/torch_file.h"

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "kernels/core/error.h"
#include "workers/files/hash.h"
#include "workers/tensors/safetensors_header.h"

namespace quern {
namespace {

constexpr std::string_view kPickleName = "data.pkl";
constexpr std::uint64_t kMaxPickleBytes = 256 << 20;

/// Folder of the archive in which everything lies, with its slash.
std::string archive_prefix(const ZipArchive& archive, const std::filesystem::path& path) {
  std::string prefix;
  for (const auto& [name, entry] : archive.entries) {
    const std::size_t slash = name.find('/');
    if (slash == std::string::npos || name.substr(slash + 1) != kPickleName) continue;
    if (!prefix.empty()) {
      throw InputError(fmt::format("{}: holds {} twice, in {} and in {}, expected one",
                                   path.string(), kPickleName, shown(prefix), shown(name)));
    }
    prefix = name.substr(0, slash + 1);
  }
  if (!prefix.empty()) return prefix;
  throw InputError(fmt::format("{}: a zip file without {}, expected a file as torch.save writes it",
                               path.string(), kPickleName));
}

std::string read_entry(const ReadableFile& file, const ZipArchive& archive, const std::string& name,
                       std::uint64_t most_bytes) {
  const ZipEntry& entry = archive.entries.at(name);
  if (entry.bytes > most_bytes) {
    throw InputError(fmt::format("{}: entry {} has {} bytes, expected at most {}",
                                 file.path().string(), shown(name), entry.bytes, most_bytes));
  }
  std::string text(entry.bytes, '\0');
  file.read_at(entry.begin, std::as_writable_bytes(std::span(text)));
  return text;
}

void check_byte_order(const ReadableFile& file, const ZipArchive& archive,
                      const std::string& prefix) {
  const std::string name = prefix + "byteorder";
  if (!archive.entries.contains(name)) return;  // older than the entry, and little-endian
  const std::string order = read_entry(file, archive, name, 64);
  if (order == "little") return;
  throw InputError(
      fmt::format("{}: entry {} is {}, expected \"little\"; save the model on a "
                  "little-endian machine",
                  file.path().string(), shown(name), shown(order)));
}

/// Places tensors in their storages.
class Placer {
 public:
  Placer(const ZipArchive& archive, std::string prefix, const std::filesystem::path& path)
      : archive_(archive), prefix_(std::move(prefix)), path_(path) {}

  TensorEntry place(const std::string& name, const PickledTensor& tensor) const {
    const ZipEntry& storage = storage_of(name, tensor);
    const std::int64_t elems = elems_of(name, tensor);
    TensorEntry entry;
    entry.dtype = tensor.dtype;
    entry.shape = Shape(tensor.shape);
    entry.bytes = static_cast<std::uint64_t>(elems) * dtype_bytes(entry.dtype);
    entry.begin = storage.begin;
    if (elems == 0) return entry;
    check_extent(name, tensor);
    entry.begin += static_cast<std::uint64_t>(tensor.offset) * dtype_bytes(entry.dtype);
    if (!contiguous(tensor)) entry.strides = tensor.strides;
    return entry;
  }

 private:
  [[noreturn]] void fail(const std::string& name, const std::string& what) const {
    throw InputError(fmt::format("{}: tensor {}: {}", path_.string(), shown(name), what));
  }

  const ZipEntry& storage_of(const std::string& name, const PickledTensor& tensor) const {
    const std::string entry_name = prefix_ + "data/" + tensor.storage;
    const auto found = archive_.entries.find(entry_name);
    if (found == archive_.entries.end()) {
      fail(name, fmt::format("its storage {} is not in the file", shown(entry_name)));
    }
    const std::uint64_t item = dtype_bytes(tensor.dtype);
    if (static_cast<std::uint64_t>(tensor.storage_elems) > found->second.bytes / item) {
      fail(name,
           fmt::format("its storage {} has {} bytes, expected {} elements of {}", shown(entry_name),
                       found->second.bytes, tensor.storage_elems, dtype_name(tensor.dtype)));
    }
    return found->second;
  }

  /// Not more than the storage holds, so that no tensor is larger than the file.
  std::int64_t elems_of(const std::string& name, const PickledTensor& tensor) const {
    std::int64_t elems = 1;
    bool overflow = false;
    for (const std::int64_t dim : tensor.shape) {
      overflow = overflow || __builtin_mul_overflow(elems, dim, &elems);
    }
    if (overflow || elems > tensor.storage_elems) {
      fail(name, fmt::format("has shape {}, expected at most the {} elements of its storage; a "
                             "tensor that repeats elements must be made contiguous before saving",
                             shown(tensor.shape), tensor.storage_elems));
    }
    return elems;
  }

  void check_extent(const std::string& name, const PickledTensor& tensor) const {
    std::int64_t last = tensor.offset;
    bool overflow = false;
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
      std::int64_t reach = 0;
      overflow = overflow || __builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &reach);
      overflow = overflow || __builtin_add_overflow(last, reach, &last);
    }
    if (overflow || last >= tensor.storage_elems) {
      fail(name, fmt::format("shape {}, strides {} and offset {} leave its storage of {} elements",
                             shown(tensor.shape), shown(tensor.strides), tensor.offset,
                             tensor.storage_elems));
    }
  }

  static bool contiguous(const PickledTensor& tensor) {
    std::int64_t expected = 1;
    for (std::size_t i = tensor.shape.size(); i > 0; --i) {
      if (tensor.shape[i - 1] != 1 && tensor.strides[i - 1] != expected) return false;
      expected *= tensor.shape[i - 1];
    }
    return true;
  }

  const ZipArchive& archive_;
  std::string prefix_;
  const std::filesystem::path& path_;
};

/// Elements of up to four axes, one after the other.
template <typename T>
void gather(const TensorEntry& entry, std::span<const std::byte> from, std::span<std::byte> out) {
  std::array<std::int64_t, Shape::max_rank> dims{1, 1, 1, 1};
  std::array<std::int64_t, Shape::max_rank> strides{};
  const std::size_t skipped = Shape::max_rank - entry.shape.rank();
  for (std::size_t i = 0; i < entry.shape.rank(); ++i) {
    dims[skipped + i] = entry.shape[i];
    strides[skipped + i] = entry.strides[i];
  }
  std::size_t to = 0;
  for (std::int64_t a = 0; a < dims[0]; ++a) {
    for (std::int64_t b = 0; b < dims[1]; ++b) {
      for (std::int64_t c = 0; c < dims[2]; ++c) {
        const std::int64_t row = a * strides[0] + b * strides[1] + c * strides[2];
        for (std::int64_t d = 0; d < dims[3]; ++d, to += sizeof(T)) {
          const auto place = static_cast<std::size_t>(row + d * strides[3]);
          std::memcpy(out.data() + to, from.data() + place * sizeof(T), sizeof(T));
        }
      }
    }
  }
}

}  // namespace

TorchFile::TorchFile(std::filesystem::path path) : TensorFile(std::move(path)) {
  const ZipArchive archive = read_zip_archive(file_);
  const std::string prefix = archive_prefix(archive, file_.path());
  check_byte_order(file_, archive, prefix);
  const std::string pickle =
      read_entry(file_, archive, prefix + std::string(kPickleName), kMaxPickleBytes);
  PickledState state = read_pickle(std::as_bytes(std::span(pickle)),
                                   fmt::format("{}: {}", file_.path().string(), kPickleName));
  const Placer placer(archive, prefix, file_.path());
  for (const auto& [name, tensor] : state.tensors) {
    entries_.emplace_hint(entries_.end(), name, placer.place(name, tensor));
  }
  scalars_ = std::move(state.scalars);
  Xxh3Stream hash;
  hash.update(std::as_bytes(std::span(archive.directory_hash)));
  hash.update(std::as_bytes(std::span(pickle)));
  header_hash_ = hash.hex();
}

void TorchFile::read(const TensorEntry& entry, std::span<std::byte> out) const {
  ensure(out.size() == entry.bytes, "an output of the tensor's size");
  if (entry.strides.empty()) return file_.read_at(entry.begin, out);
  std::int64_t extent = 1;
  for (std::size_t i = 0; i < entry.shape.rank(); ++i) {
    extent += (entry.shape[i] - 1) * entry.strides[i];
  }
  const std::size_t item = dtype_bytes(entry.dtype);
  std::vector<std::byte> stored(static_cast<std::size_t>(extent) * item);
  file_.read_at(entry.begin, stored);
  switch (item) {
    case 1:
      return gather<std::uint8_t>(entry, stored, out);
    case 2:
      return gather<std::uint16_t>(entry, stored, out);
    case 4:
      return gather<std::uint32_t>(entry, stored, out);
    default:
      return gather<std::uint64_t>(entry, stored, out);
  }
}

}  // namespace quern
