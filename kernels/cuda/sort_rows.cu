#include <cub/device/device_segmented_radix_sort.cuh>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/kmeans_row.h"

namespace quern::gpu {

void sort_rows(CudaContext& context, const RowPairs& pairs, int first_bit) {
  constexpr int kKeyBits = 32;
  const auto sort = [&](void* work, std::size_t& work_bytes) {
    check_cuda(
        cub::DeviceSegmentedRadixSort::SortPairs(
            work, work_bytes, pairs.keys, pairs.sorted_keys, pairs.values, pairs.sorted_values,
            static_cast<int>(pairs.rows * pairs.columns), static_cast<int>(pairs.rows),
            pairs.begins, pairs.ends, first_bit, kKeyBits, context.stream),
        "sort rows");
  };
  std::size_t work_bytes = 0;
  sort(nullptr, work_bytes);
  Tensor work = context.memory.allocate(DType::u8, {static_cast<std::int64_t>(work_bytes) + 1});
  sort(work.view().data, work_bytes);
}

}  // namespace quern::gpu
