#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace quern {

/// CRC-32 of zip files (ISO-HDLC, reflected polynomial 0xEDB88320).
std::uint32_t crc32(std::span<const std::byte> bytes) noexcept;

}  // namespace quern
