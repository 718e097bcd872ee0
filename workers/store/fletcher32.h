#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace quern::hdf5 {

/// The checksum of libhdf5's filter of this name over `bytes` and that many zeros behind them.
std::uint32_t fletcher32(std::span<const std::byte> bytes, std::size_t zero_bytes = 0);

}  // namespace quern::hdf5
