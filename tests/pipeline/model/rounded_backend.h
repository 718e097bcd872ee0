#pragma once

#include <memory>

#include "kernels/backend.h"

namespace quern::test {

/// The CPU backend with the result of every layer and gradient operation rounded to `dtype` and
/// kept in f32: the roundings of a device whose activations are of that type, on any machine. What
/// it lacks are the roundings inside attention.
std::unique_ptr<Backend> make_rounded_backend(int threads, DType dtype);

}  // namespace quern::test
