#include "kernels/cuda/convert.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/launch.h"

namespace quern {
namespace {

constexpr int kThreads = 256;

/// A thread converts one pack.
template <typename From, typename To>
__global__ void __launch_bounds__(kThreads)
    convert_kernel(const From* in, To* out, std::int64_t elems, bool aligned) {
  const std::int64_t at = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kPack;
  if (at >= elems) return;
  const Pack<From> from = load_pack(in + at, elems - at, aligned);
  Pack<To> to;
  for (int i = 0; i < kPack; ++i) to.at[i] = narrow<To>(widen(from.at[i]));
  store_pack(to, out + at, elems - at, aligned);
}

}  // namespace

void convert_elements(CudaContext& context, ConstTensorView in, TensorView out) {
  const std::int64_t elems = in.elems();
  const unsigned blocks = block_count(elems, kThreads * kPack);
  const bool aligned = packs_aligned({in.data, out.data});
  with_plain_float(in.dtype, [&]<typename From>(TypeTag<From>) {
    with_plain_float(out.dtype, [&]<typename To>(TypeTag<To>) {
      convert_kernel<From, To>
          <<<blocks, kThreads, 0, context.stream>>>(in.as<From>(), out.as<To>(), elems, aligned);
    });
  });
  check_launch("convert");
}

Converted::Converted(CudaContext& context, ConstTensorView in, DType dtype) : view_(in) {
  if (in.dtype == dtype) return;
  owned_ = context.memory.allocate(dtype, in.shape);
  if (in.elems() > 0) convert_elements(context, in, owned_.view());
  view_ = owned_.view();
}

}  // namespace quern
