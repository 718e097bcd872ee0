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
/// From now on, what malloc hands out in blocks of 4 MiB and more goes back to the system when it
/// is freed; glibc keeps blocks of up to 32 MiB otherwise, for every thread (mallopt(3), "dynamic
/// mmap threshold"). For processes that use such blocks once; new ones cost the kernel time.
void give_back_large_blocks();
/// Gives free memory back to the system and measures the peak anew, where the kernel allows it.
void restart_peak_resident();

}  // namespace quern
