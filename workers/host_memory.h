#pragma once

#include <cstdint>

namespace quern {

/// Bytes this process could still take without swapping: what the kernel calls available, or what
/// the control group leaves if that is less. 0 where neither can be told.
std::uint64_t available_host_bytes();

/// The share of one rank where `ranks_on_host` of them divide what is available.
std::uint64_t host_bytes_of_rank(int ranks_on_host);

/// The most bytes of memory that this process has held at once, since its start or the last call of
/// restart_peak_resident().
std::uint64_t peak_resident_bytes();
/// Gives free memory back to the system and measures the peak anew, where the kernel allows it.
void restart_peak_resident();

}  // namespace quern
