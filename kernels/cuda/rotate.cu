#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rotate.h"

namespace quern {
namespace {

constexpr int kThreads = 256;

struct Rotation {
  const float* table;
  std::int64_t positions;
  std::int64_t heads;
  std::int64_t half;   ///< pairs of a head
  std::int64_t packs;  ///< of `half`
  float sign;          ///< of the sine
  bool aligned;
};

/// A thread turns up to kPack neighbouring pairs of one head of one row.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    rotate_kernel(T* x, const Rotation rotation, std::int64_t tasks) {
  const std::int64_t task = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (task >= tasks) return;
  const std::int64_t head = task / rotation.packs;
  const std::int64_t pair = task % rotation.packs * kPack;
  const std::int64_t left = rotation.half - pair;
  const bool aligned = rotation.aligned;
  const float* angles =
      rotation.table + head / rotation.heads % rotation.positions * 2 * rotation.half + pair;
  const Pack<float> cosines = load_pack(angles, left, aligned);
  const Pack<float> sines = load_pack(angles + rotation.half, left, aligned);
  T* place = x + head * 2 * rotation.half + pair;
  Pack<T> low = load_pack(place, left, aligned);
  Pack<T> high = load_pack(place + rotation.half, left, aligned);
  for (int i = 0; i < kPack; ++i) {
    const Wide<T> a = widen(low.at[i]);
    const Wide<T> b = widen(high.at[i]);
    const Wide<T> cosine = cosines.at[i];
    const Wide<T> sine = rotation.sign * sines.at[i];
    low.at[i] = narrow<T>(a * cosine - b * sine);
    high.at[i] = narrow<T>(b * cosine + a * sine);
  }
  store_pack(low, place, left, aligned);
  store_pack(high, place + rotation.half, left, aligned);
}

}  // namespace

void rotate_heads(CudaContext& context, TensorView x, ConstTensorView table, std::int64_t head_dim,
                  Turn turn) {
  const std::int64_t half = head_dim / 2;
  const Rotation rotation{.table = table.as<float>(),
                          .positions = table.shape[0],
                          .heads = x.shape[1] / head_dim,
                          .half = half,
                          .packs = (half + kPack - 1) / kPack,
                          .sign = turn == Turn::forward ? 1.0F : -1.0F,
                          .aligned = half % kPack == 0 && packs_aligned({x.data, table.data})};
  const std::int64_t tasks = x.shape[0] * rotation.heads * rotation.packs;
  with_plain_float(x.dtype, [&]<typename T>(TypeTag<T>) {
    rotate_kernel<T>
        <<<block_count(tasks, kThreads), kThreads, 0, context.stream>>>(x.as<T>(), rotation, tasks);
  });
  check_launch("rotate");
}

}  // namespace quern
