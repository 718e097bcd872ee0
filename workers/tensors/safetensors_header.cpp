#include "workers/tensors/safetensors_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/core/error.h"
#include "workers/files/json_file.h"

namespace quern {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "tensor data are used as they lie");

constexpr std::string_view kMetadataKey = "__metadata__";
constexpr std::size_t kMaxShownBytes = 160;
constexpr std::uint64_t kMaxInteger = std::numeric_limits<std::int64_t>::max();

/// Reads one header; holds what every message needs.
class HeaderReader {
 public:
  HeaderReader(const std::filesystem::path& path, std::uint64_t header_bytes,
               std::uint64_t file_bytes)
      : path_(path), data_begin_(kSafetensorsPrefixBytes + header_bytes), file_bytes_(file_bytes) {}

  std::map<std::string, TensorEntry> read(const json& header) {
    std::map<std::string, TensorEntry> entries;
    for (const auto& [name, value] : header.items()) {
      if (name == kMetadataKey) {
        check_metadata(value);
      } else {
        entries.emplace_hint(entries.end(), name, entry(name, value));
      }
    }
    check_layout(entries);
    return entries;
  }

 private:
  [[noreturn]] void fail(const std::string& name, const std::string& what) const {
    throw InputError(fmt::format("{}: tensor {}: {}", path_.string(), shown(name), what));
  }

  void check_metadata(const json& metadata) const {
    if (!metadata.is_object()) {
      throw InputError(fmt::format("{}: {} is {}, expected an object of strings", path_.string(),
                                   kMetadataKey, shown(metadata)));
    }
    for (const auto& [key, value] : metadata.items()) {
      if (!value.is_string()) {
        throw InputError(fmt::format("{}: {}: {} is {}, expected a string", path_.string(),
                                     kMetadataKey, shown(key), shown(value)));
      }
    }
  }

  TensorEntry entry(const std::string& name, const json& value) const {
    if (!value.is_object()) {
      fail(name,
           fmt::format("is {}, expected an object of dtype, shape and data_offsets", shown(value)));
    }
    for (const auto& [key, ignored] : value.items()) {
      if (key != "dtype" && key != "shape" && key != "data_offsets") {
        fail(name, fmt::format("unknown key {}, expected exactly dtype, shape and data_offsets",
                               shown(key)));
      }
    }
    TensorEntry result;
    result.dtype = dtype(name, member(name, value, "dtype"));
    result.shape = shape(name, member(name, value, "shape"));
    place(name, member(name, value, "data_offsets"), result);
    return result;
  }

  const json& member(const std::string& name, const json& value, const char* key) const {
    const auto found = value.find(key);
    if (found == value.end()) {
      fail(name, fmt::format("{} is missing, expected exactly dtype, shape and data_offsets", key));
    }
    return *found;
  }

  DType dtype(const std::string& name, const json& value) const {
    if (!value.is_string()) {
      fail(name, fmt::format("dtype is {}, expected a string such as \"BF16\"", shown(value)));
    }
    const std::optional<DType> known = parse_dtype(value.get_ref<const std::string&>());
    if (!known) {
      fail(name, fmt::format("dtype {} is not supported, expected F64, F32, F16, BF16, F8_E4M3, "
                             "F8_E5M2, I64, I32, I16, I8, U8 or BOOL",
                             shown(value)));
    }
    return *known;
  }

  std::uint64_t integer(const std::string& name, const char* field, const json& value) const {
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kMaxInteger) {
      fail(name, fmt::format("{} holds {}, expected an integer from 0 to {}", field, shown(value),
                             kMaxInteger));
    }
    return value.get<std::uint64_t>();
  }

  Shape shape(const std::string& name, const json& value) const {
    if (!value.is_array()) {
      fail(name, fmt::format("shape is {}, expected an array of integers", shown(value)));
    }
    if (value.size() > Shape::max_rank) {
      fail(name, fmt::format("shape {} has {} dimensions, expected at most {}", shown(value),
                             value.size(), Shape::max_rank));
    }
    std::vector<std::int64_t> dims;
    std::int64_t elems = 1;
    for (const json& dim : value) {
      dims.push_back(static_cast<std::int64_t>(integer(name, "shape", dim)));
      if (__builtin_mul_overflow(elems, dims.back(), &elems)) {
        fail(name, fmt::format("shape {} has too many elements, expected at most {}", shown(value),
                               kMaxInteger));
      }
    }
    return Shape(dims);
  }

  void place(const std::string& name, const json& offsets, TensorEntry& entry) const {
    if (!offsets.is_array() || offsets.size() != 2) {
      fail(name, fmt::format("data_offsets is {}, expected [begin, end]", shown(offsets)));
    }
    const std::uint64_t begin = integer(name, "data_offsets", offsets[0]);
    const std::uint64_t end = integer(name, "data_offsets", offsets[1]);
    if (begin > end) {
      fail(name, fmt::format("data_offsets {} ends before it begins, expected begin <= end",
                             shown(offsets)));
    }
    std::uint64_t expected = 0;
    const auto elems = static_cast<std::uint64_t>(entry.shape.elems());
    if (__builtin_mul_overflow(elems, dtype_bytes(entry.dtype), &expected) ||
        end - begin != expected) {
      fail(name, fmt::format("data_offsets {} holds {} bytes, expected {} x {} bytes for {} {}",
                             shown(offsets), end - begin, elems, dtype_bytes(entry.dtype),
                             dtype_name(entry.dtype), entry.shape.text()));
    }
    entry.begin = data_begin_ + begin;
    entry.bytes = expected;
  }

  /// Tensors follow each other without gap or overlap, from the header to the end of the file.
  void check_layout(const std::map<std::string, TensorEntry>& entries) const {
    std::vector<const std::pair<const std::string, TensorEntry>*> order;
    for (const auto& item : entries) order.push_back(&item);
    std::ranges::stable_sort(order, {}, [](const auto* item) {
      return std::pair(item->second.begin, item->second.bytes);
    });
    std::uint64_t end = data_begin_;
    const std::string* previous = nullptr;
    for (const auto* item : order) {
      if (item->second.begin != end) fail_layout(item->first, item->second.begin, previous, end);
      end += item->second.bytes;
      previous = &item->first;
    }
    if (end > file_bytes_) {
      const auto cut = std::ranges::find_if(order, [this](const auto* item) {
        return item->second.begin + item->second.bytes > file_bytes_;
      });
      fail((*cut)->first,
           fmt::format("truncated: the file has {} bytes, the header describes {}; download it "
                       "again",
                       file_bytes_, end));
    }
    if (end < file_bytes_) {
      throw InputError(fmt::format(
          "{}: the file has {} bytes, the header describes {}; the last {} bytes belong to no "
          "tensor; download it again",
          path_.string(), file_bytes_, end, file_bytes_ - end));
    }
  }

  [[noreturn]] void fail_layout(const std::string& name, std::uint64_t begin,
                                const std::string* previous, std::uint64_t end) const {
    const std::string before = previous == nullptr ? "the header" : "tensor " + shown(*previous);
    fail(name, fmt::format("data_offsets begins at byte {} and {} {}, expected byte {}",
                           begin - data_begin_, begin < end ? "overlaps" : "leaves a hole after",
                           before, end - data_begin_));
  }

  const std::filesystem::path& path_;
  std::uint64_t data_begin_;
  std::uint64_t file_bytes_;
};

}  // namespace

std::map<std::string, TensorEntry> parse_safetensors_header(std::string_view header,
                                                            std::uint64_t file_bytes,
                                                            const std::filesystem::path& path) {
  if (!header.starts_with('{')) {
    throw InputError(
        fmt::format("{}: the header begins with {}, expected '{{'; this is not a "
                    "safetensors file, or it is damaged",
                    path.string(), shown(std::string(header.substr(0, 1)))));
  }
  return HeaderReader(path, header.size(), file_bytes)
      .read(parse_json(header, path.string() + ": header"));
}

std::string format_safetensors_header(std::span<const TensorSpec> specs) {
  std::string text = R"({"__metadata__":{"format":"pt"})";
  std::uint64_t begin = 0;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const TensorSpec& spec = specs[i];
    ensure(i == 0 || specs[i - 1].name < spec.name, "unique tensor names in order");
    ensure(spec.name != kMetadataKey, "a tensor name that is not reserved");
    const auto dims = spec.shape.dims();
    const auto elems = static_cast<std::uint64_t>(spec.shape.elems());
    const std::uint64_t end = begin + elems * dtype_bytes(spec.dtype);
    text += fmt::format(R"(,{}:{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})",
                        json(spec.name).dump(), dtype_name(spec.dtype),
                        json(json::array_t(dims.begin(), dims.end())).dump(), begin, end);
    begin = end;
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  ensure(length <= kSafetensorsMaxHeaderBytes, "a header of at most 100 MB; use more shards");
  std::string prefix(kSafetensorsPrefixBytes, '\0');
  std::memcpy(prefix.data(), &length, sizeof(length));
  return prefix + text;
}

std::string shown(const json& value) {
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > kMaxShownBytes) text = text.substr(0, kMaxShownBytes) + "...";
  return text;
}

}  // namespace quern
