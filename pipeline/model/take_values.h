#pragma once

#include <cstdint>
#include <functional>
#include <span>

namespace quern {

/// Takes a large tensor's values, f32 and row major, a piece after the other; first: place of the
/// piece's first value in the tensor.
using TakeValues = std::function<void(std::uint64_t first, std::span<const float> values)>;

}  // namespace quern
