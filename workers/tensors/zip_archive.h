#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "workers/tensors/readable_file.h"

namespace quern {

/// Where the bytes of one entry lie in the file.
struct ZipEntry {
  std::uint64_t begin = 0;
  std::uint64_t bytes = 0;
};

struct ZipArchive {
  std::map<std::string, ZipEntry> entries;
  std::string directory_hash;  ///< xxh3_hex of the central directory
};

/// The central directory of a zip file whose entries are stored, not compressed; sizes of 64 bits
/// included. Every place is checked against the file, the local headers and the other entries;
/// checksums of the contents are not. InputError with file, entry, what was found and expected.
ZipArchive read_zip_archive(const ReadableFile& file);

}  // namespace quern
