#pragma once

#include <filesystem>

#include "kernels/core/tensor.h"

namespace quern {

/// Reads a NumPy .npy file, versions 1.0 to 3.0, C order, little-endian i1 u1 i2 i4 i8 f2 f4 f8
/// (u2/u4 are widened). Throws InputError naming the file and what is not supported.
HostTensor read_npy(const std::filesystem::path& path);

}  // namespace quern
