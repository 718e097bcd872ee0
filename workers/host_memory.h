#pragma once

#include <cstdint>

namespace quern {

/// Bytes this process could still take without swapping: what the kernel calls available, or what
/// the control group leaves if that is less. 0 where neither can be told.
std::uint64_t available_host_bytes();

}  // namespace quern
