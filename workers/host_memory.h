#pragma once

#include <cstdint>

namespace quern {

/// Bytes this process could still take without swapping: what the kernel calls available, or what
/// the control group leaves if that is less. 0 where neither can be told.
std::uint64_t available_host_bytes();

/// The share of one rank where `ranks_on_host` of them divide what is available.
std::uint64_t host_bytes_of_rank(int ranks_on_host);

}  // namespace quern
