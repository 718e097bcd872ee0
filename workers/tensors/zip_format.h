#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace quern {

// Records of a zip file (PKWARE's APPNOTE 6.3): marks, and bytes without names and extra fields.
inline constexpr std::uint32_t kZipLocalMark = 0x04034B50;
inline constexpr std::uint32_t kZipRowMark = 0x02014B50;
inline constexpr std::uint32_t kZipEndMark = 0x06054B50;
inline constexpr std::uint32_t kZip64EndMark = 0x06064B50;
inline constexpr std::uint32_t kZip64LocatorMark = 0x07064B50;
inline constexpr std::uint16_t kZip64Extra = 1;
inline constexpr std::size_t kZipLocalBytes = 30;
inline constexpr std::size_t kZipRowBytes = 46;
inline constexpr std::size_t kZipEndBytes = 22;
inline constexpr std::size_t kZip64EndBytes = 56;
inline constexpr std::size_t kZip64EndHeadBytes = 12;  ///< which its length field does not count
inline constexpr std::size_t kZip64LocatorBytes = 20;

/// Contents of a written archive begin at multiples of this, as PyTorch's do.
inline constexpr std::uint64_t kZipAlignment = 64;

/// A stored entry of an archive that is being written.
struct ZipRecord {
  std::string name;
  std::uint32_t crc32 = 0;
  std::uint64_t bytes = 0;
  std::uint64_t header = 0;  ///< place of its local header in the file
};

/// The local header, with an extra field that aligns the contents behind it.
std::string zip_local_header(const ZipRecord& record);

/// What ends an archive: the directory, which begins at byte `begin`, and its end records. Fields
/// of 64 bits only where 32 do not suffice; no time stamps.
std::string zip_directory(std::span<const ZipRecord> records, std::uint64_t begin);

}  // namespace quern
