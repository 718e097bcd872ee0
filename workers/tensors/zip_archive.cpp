#include "workers/tensors/zip_archive.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/core/error.h"
#include "workers/files/hash.h"
#include "workers/tensors/safetensors_header.h"
#include "workers/tensors/zip_format.h"

namespace quern {
namespace {

static_assert(std::endian::native == std::endian::little, "fields are used as they lie");

constexpr std::uint64_t kMaxDirectoryBytes = 256 << 20;
constexpr std::uint16_t kEncrypted = 1 << 0;
constexpr std::uint16_t kSizesFollowData = 1 << 3;

/// Bytes read from a file; fields must lie inside, which the callers see to.
class Fields {
 public:
  Fields(const ReadableFile& file, std::uint64_t offset, std::size_t bytes) : bytes_(bytes) {
    file.read_at(offset, bytes_);
  }

  template <typename T>
  T at(std::size_t offset) const {
    ensure(offset <= bytes_.size() && sizeof(T) <= bytes_.size() - offset, "a field inside");
    T value{};
    std::memcpy(&value, bytes_.data() + offset, sizeof(T));
    return value;
  }
  std::string_view text(std::size_t offset, std::size_t length) const {
    ensure(offset <= bytes_.size() && length <= bytes_.size() - offset, "a text inside");
    return {reinterpret_cast<const char*>(bytes_.data()) + offset, length};
  }
  std::span<const std::byte> all() const noexcept { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

/// The central directory by the records behind it.
struct Directory {
  std::uint64_t entries = 0;
  std::uint64_t bytes = 0;
  std::uint64_t begin = 0;
  std::uint64_t expected_end = 0;  ///< where the records behind it begin
};

/// One row of the central directory.
struct Row {
  std::string name;
  std::uint16_t flags = 0;
  std::uint64_t bytes = 0;
  std::uint64_t header = 0;  ///< place of the local header
};

class ArchiveReader {
 public:
  explicit ArchiveReader(const ReadableFile& file) : file_(file) {}

  ZipArchive read() {
    directory_ = find_directory();
    const Fields fields(file_, directory_.begin, directory_.bytes);
    std::vector<Row> rows = read_rows(fields);
    std::ranges::sort(rows, {}, &Row::header);
    ZipArchive archive;
    archive.directory_hash = xxh3_hex(fields.all());
    std::uint64_t end = 0;
    for (const Row& row : rows) {
      if (row.header < end) fail(row.name, "overlaps the entry before it");
      const ZipEntry entry = locate(row);
      end = entry.begin + entry.bytes;
      if (!archive.entries.emplace(row.name, entry).second) fail(row.name, "appears twice");
    }
    return archive;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw InputError(fmt::format("{}: {}", file_.path().string(), what));
  }
  [[noreturn]] void fail(const std::string& entry, const std::string& what) const {
    fail(fmt::format("entry {}: {}", shown(entry), what));
  }

  /// Place of the last record of the file, which a comment may follow.
  std::uint64_t find_end() const {
    const std::uint64_t tail_bytes =
        std::min<std::uint64_t>(file_.bytes(), kZipEndBytes + UINT16_MAX);
    const Fields tail(file_, file_.bytes() - tail_bytes, tail_bytes);
    for (std::uint64_t back = kZipEndBytes; back <= tail_bytes; ++back) {
      const std::uint64_t at = tail_bytes - back;
      if (tail.at<std::uint32_t>(at) == kZipEndMark &&
          tail.at<std::uint16_t>(at + 20) == back - kZipEndBytes) {
        return file_.bytes() - back;
      }
    }
    const bool begins_well =
        file_.bytes() >= 4 && Fields(file_, 0, 4).at<std::uint32_t>(0) == kZipLocalMark;
    fail(begins_well ? "truncated: a zip file that ends without its directory; download it again"
                     : "not a zip file, expected a file as torch.save writes it since PyTorch 1.6; "
                       "older ones must be loaded and saved again");
  }

  Directory find_directory() const {
    const std::uint64_t at = find_end();
    const Fields end(file_, at, kZipEndBytes);
    Directory found{end.at<std::uint16_t>(10), end.at<std::uint32_t>(12), end.at<std::uint32_t>(16),
                    at};
    if (end.at<std::uint16_t>(4) != 0 || end.at<std::uint16_t>(6) != 0 ||
        end.at<std::uint16_t>(8) != end.at<std::uint16_t>(10)) {
      fail("a zip file in several parts, expected one file");
    }
    if (at >= kZip64LocatorBytes) {
      const Fields locator(file_, at - kZip64LocatorBytes, kZip64LocatorBytes);
      if (locator.at<std::uint32_t>(0) == kZip64LocatorMark) found = wide_directory(locator, at);
    }
    if (found.begin > found.expected_end || found.bytes != found.expected_end - found.begin) {
      fail(fmt::format("the zip directory is said to be at bytes {} + {}, expected it to end at {}",
                       found.begin, found.bytes, found.expected_end));
    }
    if (found.bytes > kMaxDirectoryBytes || found.entries > found.bytes / kZipRowBytes) {
      fail(
          fmt::format("the zip directory has {} entries in {} bytes, expected at least {} bytes "
                      "for each and at most {} bytes",
                      found.entries, found.bytes, kZipRowBytes, kMaxDirectoryBytes));
    }
    return found;
  }

  Directory wide_directory(const Fields& locator, std::uint64_t end) const {
    const auto at = locator.at<std::uint64_t>(8);
    const std::uint64_t expected = end - kZip64LocatorBytes;
    if (expected < kZip64EndBytes || at > expected - kZip64EndBytes) {
      fail(fmt::format("the zip64 end record is said to be at byte {} of {}", at, file_.bytes()));
    }
    const Fields record(file_, at, kZip64EndBytes);
    if (record.at<std::uint32_t>(0) != kZip64EndMark || record.at<std::uint32_t>(16) != 0 ||
        record.at<std::uint32_t>(20) != 0 ||
        record.at<std::uint64_t>(24) != record.at<std::uint64_t>(32) ||
        record.at<std::uint64_t>(4) != expected - at - kZip64EndHeadBytes) {
      fail(fmt::format("the bytes at {} are not a zip64 end record of one file", at));
    }
    return {record.at<std::uint64_t>(32), record.at<std::uint64_t>(40),
            record.at<std::uint64_t>(48), at};
  }

  std::vector<Row> read_rows(const Fields& fields) const {
    std::vector<Row> rows;
    std::size_t at = 0;
    for (std::uint64_t i = 0; i < directory_.entries; ++i) {
      const std::size_t left = directory_.bytes - at;
      if (left < kZipRowBytes || fields.at<std::uint32_t>(at) != kZipRowMark) {
        fail(fmt::format("the zip directory is damaged at its byte {}, in entry {} of {}", at,
                         i + 1, directory_.entries));
      }
      const std::size_t name = fields.at<std::uint16_t>(at + 28);
      const std::size_t extra = fields.at<std::uint16_t>(at + 30);
      const std::size_t comment = fields.at<std::uint16_t>(at + 32);
      if (name + extra + comment > left - kZipRowBytes) {
        fail(fmt::format("entry {} of {} runs over the end of the zip directory", i + 1,
                         directory_.entries));
      }
      rows.push_back(read_row(fields, at));
      at += kZipRowBytes + name + extra + comment;
    }
    if (at != directory_.bytes) {
      fail(fmt::format("the zip directory has {} bytes, its {} entries take {}", directory_.bytes,
                       directory_.entries, at));
    }
    return rows;
  }

  Row read_row(const Fields& fields, std::size_t at) const {
    Row row;
    row.name = fields.text(at + kZipRowBytes, fields.at<std::uint16_t>(at + 28));
    row.flags = fields.at<std::uint16_t>(at + 8);
    if ((row.flags & kEncrypted) != 0) fail(row.name, "is encrypted, expected plain bytes");
    const auto method = fields.at<std::uint16_t>(at + 10);
    if (method != 0) {
      fail(row.name, fmt::format("is compressed by method {}, expected it to be stored as "
                                 "torch.save does; save the model again",
                                 method));
    }
    std::uint64_t stored = fields.at<std::uint32_t>(at + 20);
    row.bytes = fields.at<std::uint32_t>(at + 24);
    row.header = fields.at<std::uint32_t>(at + 42);
    widen(fields, at, row, stored);
    if (stored != row.bytes) {
      fail(row.name, fmt::format("takes {} bytes for {} bytes of contents, expected as many",
                                 stored, row.bytes));
    }
    return row;
  }

  /// Replaces what does not fit 32 bits by the fields of 64 bits, which come in this order.
  void widen(const Fields& fields, std::size_t row_at, Row& row, std::uint64_t& stored) const {
    std::vector<std::uint64_t*> wide;
    for (std::uint64_t* field : {&row.bytes, &stored, &row.header}) {
      if (*field == UINT32_MAX) wide.push_back(field);
    }
    if (wide.empty()) return;
    std::size_t at = row_at + kZipRowBytes + row.name.size();
    const std::size_t end = at + fields.at<std::uint16_t>(row_at + 30);
    while (end - at >= 4) {
      const std::size_t bytes = fields.at<std::uint16_t>(at + 2);
      if (bytes > end - at - 4) break;
      if (fields.at<std::uint16_t>(at) == kZip64Extra && bytes >= 8 * wide.size()) {
        for (std::size_t i = 0; i < wide.size(); ++i) {
          *wide[i] = fields.at<std::uint64_t>(at + 4 + 8 * i);
        }
        return;
      }
      at += 4 + bytes;
    }
    fail(row.name, "lacks its sizes of 64 bits");
  }

  ZipEntry locate(const Row& row) const {
    const std::uint64_t limit = directory_.begin;
    if (row.header > limit || limit - row.header < kZipLocalBytes + row.name.size()) {
      fail(row.name, fmt::format("is said to begin at byte {}, expected it before the directory "
                                 "at {}",
                                 row.header, limit));
    }
    const Fields local(file_, row.header, kZipLocalBytes + row.name.size());
    const bool agrees = local.at<std::uint32_t>(0) == kZipLocalMark &&
                        local.at<std::uint16_t>(8) == 0 &&
                        local.at<std::uint16_t>(26) == row.name.size() &&
                        local.text(kZipLocalBytes, row.name.size()) == row.name;
    const std::uint64_t narrow = std::min<std::uint64_t>(row.bytes, UINT32_MAX);
    const bool same_size =
        local.at<std::uint32_t>(18) == narrow && local.at<std::uint32_t>(22) == narrow;
    if (!agrees || (!same_size && (row.flags & kSizesFollowData) == 0)) {
      fail(row.name, fmt::format("its header at byte {} does not agree with the directory; the "
                                 "file is damaged",
                                 row.header));
    }
    const std::uint64_t begin =
        row.header + kZipLocalBytes + row.name.size() + local.at<std::uint16_t>(28);
    if (begin > limit || row.bytes > limit - begin) {
      fail(row.name, fmt::format("has {} bytes from byte {} on, expected them before the directory "
                                 "at {}",
                                 row.bytes, begin, limit));
    }
    return {begin, row.bytes};
  }

  const ReadableFile& file_;
  Directory directory_;
};

}  // namespace

ZipArchive read_zip_archive(const ReadableFile& file) {
  return ArchiveReader(file).read();
}

}  // namespace quern
