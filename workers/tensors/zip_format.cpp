#include "workers/tensors/zip_format.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/core/error.h"

namespace quern {
namespace {

static_assert(std::endian::native == std::endian::little, "fields are written as they lie");

constexpr std::uint16_t kVersion = 20;
constexpr std::uint16_t kVersion64 = 45;
constexpr std::uint16_t kFirstDay = 0x21;        ///< 1980-01-01, the earliest date there is
constexpr std::uint16_t kPaddingExtra = 0x4246;  ///< "FB", as PyTorch has it

template <typename T>
void put(std::string& text, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  text.append(bytes, sizeof(T));
}

template <typename T>
T narrow(std::uint64_t value) {
  return static_cast<T>(std::min<std::uint64_t>(value, static_cast<T>(-1)));
}

bool is_wide(std::uint64_t value) {
  return value >= UINT32_MAX;
}

/// The 64-bit values of those fields that do not fit 32 bits, as an extra field; else empty.
std::string wide_extra(std::initializer_list<std::uint64_t> values) {
  std::string wide;
  for (const std::uint64_t value : values) {
    if (is_wide(value)) put(wide, value);
  }
  if (wide.empty()) return wide;
  std::string extra;
  put(extra, kZip64Extra);
  put(extra, static_cast<std::uint16_t>(wide.size()));
  return extra + wide;
}

/// Fields that the local header and the row of the directory have alike.
void put_shared_fields(std::string& text, const ZipRecord& record, std::size_t extra_bytes) {
  put(text, is_wide(record.bytes) || is_wide(record.header) ? kVersion64 : kVersion);
  put<std::uint16_t>(text, 0);  // flags
  put<std::uint16_t>(text, 0);  // stored
  put<std::uint16_t>(text, 0);  // time
  put(text, kFirstDay);
  put(text, record.crc32);
  put(text, narrow<std::uint32_t>(record.bytes));
  put(text, narrow<std::uint32_t>(record.bytes));
  put(text, static_cast<std::uint16_t>(record.name.size()));
  put(text, static_cast<std::uint16_t>(extra_bytes));
}

void put_row(std::string& text, const ZipRecord& record) {
  const std::string extra = wide_extra({record.bytes, record.bytes, record.header});
  put(text, kZipRowMark);
  put(text, kVersion64);
  put_shared_fields(text, record, extra.size());
  text.append(10, '\0');  // no comment, first disk, no attributes
  put(text, narrow<std::uint32_t>(record.header));
  text += record.name + extra;
}

}  // namespace

std::string zip_local_header(const ZipRecord& record) {
  ensure(record.name.size() <= UINT16_MAX, "a zip entry's name of at most 65535 bytes");
  std::string extra = wide_extra({record.bytes, record.bytes});
  const std::uint64_t unpadded =
      record.header + kZipLocalBytes + record.name.size() + extra.size() + 4;
  const std::uint64_t padding = (kZipAlignment - unpadded % kZipAlignment) % kZipAlignment;
  put(extra, kPaddingExtra);
  put(extra, static_cast<std::uint16_t>(padding));
  extra.append(padding, 'Z');
  std::string text;
  put(text, kZipLocalMark);
  put_shared_fields(text, record, extra.size());
  return text + record.name + extra;
}

std::string zip_directory(std::span<const ZipRecord> records, std::uint64_t begin) {
  std::string text;
  for (const ZipRecord& record : records) put_row(text, record);
  const std::uint64_t bytes = text.size();
  const std::uint64_t count = records.size();
  if (count >= UINT16_MAX || is_wide(bytes) || is_wide(begin)) {
    put(text, kZip64EndMark);
    put<std::uint64_t>(text, kZip64EndBytes - kZip64EndHeadBytes);
    put(text, kVersion64);
    put(text, kVersion64);
    put<std::uint64_t>(text, 0);  // this disk, and that of the directory
    for (const std::uint64_t field : {count, count, bytes, begin}) put(text, field);
    put(text, kZip64LocatorMark);
    put<std::uint32_t>(text, 0);
    put(text, begin + bytes);
    put<std::uint32_t>(text, 1);  // disks in all
  }
  put(text, kZipEndMark);
  put<std::uint32_t>(text, 0);
  put(text, narrow<std::uint16_t>(count));
  put(text, narrow<std::uint16_t>(count));
  put(text, narrow<std::uint32_t>(bytes));
  put(text, narrow<std::uint32_t>(begin));
  put<std::uint16_t>(text, 0);
  return text;
}

}  // namespace quern
