#include "kernels/cuda/launch.h"

#include <limits>

#include "kernels/core/error.h"
#include "kernels/operands.h"

namespace quern {

unsigned block_count(std::int64_t count, std::int64_t size) {
  const std::int64_t blocks = (count + size - 1) / size;
  ensure(blocks <= std::numeric_limits<std::int32_t>::max(), "a grid below 2^31 blocks");
  return static_cast<unsigned>(blocks);
}

void expect_activation(const CudaContext& context, const char* operation,
                       std::initializer_list<ConstTensorView> views) {
  for (const ConstTensorView& view : views) {
    expect_operands(view.dtype == context.activation, operation,
                    "activations of the type that the CUDA backend was made for",
                    {{"activation", view}});
  }
}

}  // namespace quern
