#include "workers/tensors/npy.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/core/error.h"
#include "workers/tensors/readable_file.h"

namespace quern {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::uint64_t kVersionEnd = 8;
constexpr std::uint64_t kMaxHeaderBytes = 1 << 20;

/// A NumPy type, the type it becomes, and how many bytes one element has in the file.
struct NpyType {
  std::string_view descr;
  DType dtype;
  std::size_t file_bytes;
};

constexpr std::array kTypes = {
    NpyType{"|i1", DType::i8, 1},  NpyType{"|u1", DType::u8, 1},  NpyType{"|b1", DType::boolean, 1},
    NpyType{"<i2", DType::i16, 2}, NpyType{"<i4", DType::i32, 4}, NpyType{"<i8", DType::i64, 8},
    NpyType{"<u2", DType::i32, 2}, NpyType{"<u4", DType::i64, 4}, NpyType{"<f2", DType::f16, 2},
    NpyType{"<f4", DType::f32, 4}, NpyType{"<f8", DType::f64, 8},
};

struct NpyHeader {
  std::optional<NpyType> type;
  std::optional<bool> fortran_order;
  std::optional<Shape> shape;
};

/// Parses the Python dictionary literal that NumPy writes, and nothing more general.
class NpyHeaderParser {
 public:
  NpyHeaderParser(std::string_view text, const std::filesystem::path& path)
      : text_(text), path_(path) {}

  NpyHeader parse() {
    NpyHeader header;
    expect('{');
    while (!accept('}')) {
      const std::string_view key = quoted();
      expect(':');
      member(key, header);
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_spaces();
    if (at_ != text_.size()) fail("the end of the header");
    if (!header.type || !header.fortran_order || !header.shape) {
      fail("the keys descr, fortran_order and shape");
    }
    return header;
  }

 private:
  void member(std::string_view key, NpyHeader& header) {
    if (key == "descr" && !header.type) {
      header.type = type();
    } else if (key == "fortran_order" && !header.fortran_order) {
      header.fortran_order = boolean();
    } else if (key == "shape" && !header.shape) {
      header.shape = shape();
    } else {
      fail("each of the keys descr, fortran_order and shape once");
    }
  }

  NpyType type() {
    const std::string_view descr = quoted();
    const auto* found = std::ranges::find(kTypes, descr, &NpyType::descr);
    if (found == kTypes.end()) {
      throw InputError(
          fmt::format("{}: descr '{}' is not supported, expected little-endian i1, u1, "
                      "i2, u2, i4, u4, i8, f2, f4, f8 or bool",
                      path_.string(), descr));
    }
    return *found;
  }

  bool boolean() {
    if (accept_word("True")) return true;
    if (!accept_word("False")) fail("True or False");
    return false;
  }

  Shape shape() {
    std::vector<std::int64_t> dims;
    std::int64_t elems = 1;
    expect('(');
    while (!accept(')')) {
      dims.push_back(integer());
      if (dims.size() > Shape::max_rank) fail("at most 4 dimensions");
      if (__builtin_mul_overflow(elems, dims.back(), &elems)) fail("a shape that fits 64 bits");
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
    return Shape(dims);
  }

  std::int64_t integer() {
    skip_spaces();
    std::int64_t value = 0;
    const char* begin = text_.data() + at_;
    const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), value);
    if (error != std::errc() || value < 0) fail("an integer that is not negative");
    at_ += static_cast<std::size_t>(end - begin);
    return value;
  }

  std::string_view quoted() {
    skip_spaces();
    const char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote != '\'' && quote != '"') fail("a quoted word; structured types are not supported");
    const std::size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) fail("a closing quote");
    const std::string_view word = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return word;
  }

  bool accept_word(std::string_view word) {
    skip_spaces();
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }

  bool accept(char symbol) { return accept_word({&symbol, 1}); }

  void expect(char symbol) {
    if (!accept(symbol)) fail(fmt::format("'{}'", symbol));
  }

  void skip_spaces() { at_ = std::min(text_.find_first_not_of(" \n", at_), text_.size()); }

  [[noreturn]] void fail(std::string_view expected) const {
    throw InputError(fmt::format("{}: the npy header, character {}: expected {}", path_.string(),
                                 at_ + 1, expected));
  }

  std::string_view text_;
  const std::filesystem::path& path_;
  std::size_t at_ = 0;
};

/// Offset and length of the header text.
std::pair<std::uint64_t, std::uint64_t> header_place(const ReadableFile& file) {
  const std::string path = file.path().string();
  std::array<unsigned char, 12> start{};
  const std::uint64_t available = std::min<std::uint64_t>(start.size(), file.bytes());
  file.read_at(0, std::as_writable_bytes(std::span(start)).first(available));
  const std::string_view magic(reinterpret_cast<const char*>(start.data()), kMagic.size());
  if (available < kVersionEnd + 2 || magic != kMagic) {
    throw InputError(
        fmt::format("{}: not an npy file, expected it to begin with \\x93NUMPY", path));
  }
  const unsigned version = start[6];
  if (version < 1 || version > 3 || start[7] != 0) {
    throw InputError(
        fmt::format("{}: npy version {}.{}, expected 1.0, 2.0 or 3.0", path, version, start[7]));
  }
  const std::uint64_t width = version == 1 ? 2 : 4;
  std::uint64_t length = 0;
  for (std::uint64_t i = 0; i < width; ++i) {
    length |= static_cast<std::uint64_t>(start[kVersionEnd + i]) << (8 * i);
  }
  const std::uint64_t begin = kVersionEnd + width;
  if (length > kMaxHeaderBytes || begin + length > file.bytes()) {
    throw InputError(
        fmt::format("{}: the npy header has {} bytes, the file {}; it is truncated or "
                    "damaged",
                    path, length, file.bytes()));
  }
  return {begin, length};
}

/// Zero-extends in place, front to back: the narrow elements lie at the end of `bytes`.
void widen(std::span<std::byte> bytes, std::size_t narrow_bytes, std::size_t wide_bytes) {
  const std::size_t count = bytes.size() / wide_bytes;
  const std::size_t first = bytes.size() - count * narrow_bytes;
  for (std::size_t i = 0; i < count; ++i) {
    std::byte* to = bytes.data() + i * wide_bytes;
    std::memmove(to, bytes.data() + first + i * narrow_bytes, narrow_bytes);
    std::fill(to + narrow_bytes, to + wide_bytes, std::byte{0});
  }
}

}  // namespace

HostTensor read_npy(const std::filesystem::path& path) {
  const ReadableFile file(path);
  const auto [header_begin, header_length] = header_place(file);
  std::string text(header_length, '\0');
  file.read_at(header_begin, std::as_writable_bytes(std::span(text)));
  const NpyHeader header = NpyHeaderParser(text, path).parse();
  if (*header.fortran_order) {
    throw InputError(
        fmt::format("{}: the array is in Fortran order, expected C order; save "
                    "numpy.ascontiguousarray of it",
                    path.string()));
  }
  const std::uint64_t begin = header_begin + header_length;
  const std::uint64_t present = file.bytes() - begin;
  const NpyType& type = *header.type;
  const auto elems = static_cast<std::uint64_t>(header.shape->elems());
  if (present % type.file_bytes != 0 || present / type.file_bytes != elems) {
    throw InputError(
        fmt::format("{}: {} bytes follow the header, expected {} elements of {} bytes "
                    "for shape {}",
                    path.string(), present, elems, type.file_bytes, header.shape->text()));
  }
  HostTensor tensor(type.dtype, *header.shape);
  file.read_at(begin, std::span(tensor.bytes).last(present));
  if (present != tensor.bytes.size()) {
    widen(tensor.bytes, type.file_bytes, dtype_bytes(type.dtype));
  }
  return tensor;
}

}  // namespace quern
