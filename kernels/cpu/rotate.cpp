#include "kernels/cpu/rotate.h"

#include "kernels/cpu/elementwise.h"

namespace quern {
namespace {

template <typename T>
void rotate_head(T* x, const float* cosines, const float* sines, std::int64_t half, float sign) {
  for (std::int64_t i = 0; i < half; ++i) {
    const T low = x[i];
    const T high = x[i + half];
    const T cosine{cosines[i]};
    const T sine{sign * sines[i]};
    x[i] = low * cosine - high * sine;
    x[i + half] = high * cosine + low * sine;
  }
}

}  // namespace

void rotate_heads(TensorView x, ConstTensorView table, std::int64_t head_dim, float sign,
                  int threads) {
  const std::int64_t tokens = x.shape[0];
  const std::int64_t width = x.shape[1];
  const std::int64_t half = head_dim / 2;
  with_activation(x.dtype, [&]<typename T>(T) {
#pragma omp parallel for num_threads(threads) schedule(static) if (x.elems() > kPiece)
    for (std::int64_t t = 0; t < tokens; ++t) {
      const float* cosines = table.as<float>() + t % table.shape[0] * head_dim;
      T* row = x.as<T>() + t * width;
      for (std::int64_t head = 0; head < width; head += head_dim) {
        rotate_head(row + head, cosines, cosines + half, half, sign);
      }
    }
  });
}

}  // namespace quern
