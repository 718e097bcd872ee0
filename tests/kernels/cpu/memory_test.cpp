#include "kernels/cpu/memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "kernels/core/error.h"

namespace quern::test {
namespace {

TEST(CpuMemoryTest, CountsWhatIsHandedOut) {
  CpuMemory memory;
  EXPECT_EQ(memory.used_bytes(), 0U);
  Tensor kept = memory.allocate(DType::f32, {100});
  {
    const Tensor passing = memory.allocate(DType::bf16, {1000, 3});
    EXPECT_EQ(memory.used_bytes(), 6400U);
  }
  EXPECT_EQ(memory.used_bytes(), 400U);
  EXPECT_EQ(memory.peak_bytes(), 6400U);
  kept = Tensor();
  EXPECT_EQ(memory.used_bytes(), 0U);
}

TEST(CpuMemoryTest, AlignsTo256Bytes) {
  CpuMemory memory;
  std::vector<Tensor> tensors;
  for (const std::int64_t elems : {0, 1, 7, 64, 1000, 100000}) {
    tensors.push_back(memory.allocate(DType::u8, {elems}));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensors.back().view().data) % 256, 0U) << elems;
  }
}

TEST(CpuMemoryTest, RefusalNamesTheBytesAndCountsNothing) {
  CpuMemory memory;
  try {
    memory.allocate(DType::f32, {std::int64_t{1} << 60});
    FAIL();
  } catch (const MemoryError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("4611686018427387904 bytes"));
  }
  EXPECT_EQ(memory.used_bytes(), 0U);
  EXPECT_EQ(memory.peak_bytes(), 0U);
}

TEST(CpuMemoryTest, ALimitHolds) {
  EXPECT_EQ(CpuMemory().limit_bytes(), Memory::unlimited);
  CpuMemory memory(1000);
  EXPECT_EQ(memory.limit_bytes(), 1000U);
  Tensor kept = memory.allocate(DType::f32, {100});
  EXPECT_EQ(memory.free_bytes(), 600U);
  try {
    memory.allocate(DType::u8, {601});
    FAIL();
  } catch (const MemoryError& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::memory);
    EXPECT_THAT(error.what(), testing::HasSubstr("601 bytes refused: 400 are in use and 1000 are"));
    EXPECT_THAT(error.what(), testing::HasSubstr("micro_batch"));
    EXPECT_THAT(error.what(), testing::HasSubstr("run.gpu_memory"));
  }
  {
    const Tensor rest = memory.allocate(DType::u8, {600});
    EXPECT_EQ(memory.free_bytes(), 0U);
    EXPECT_THROW(memory.allocate(DType::u8, {1}), MemoryError);
  }
  EXPECT_EQ(memory.free_bytes(), 600U);
  EXPECT_EQ(memory.peak_bytes(), 1000U);
}

TEST(CpuMemoryTest, HostBuffersCountNothing) {
  CpuMemory memory(16);
  HostBuffer buffer = memory.allocate_host(100);
  EXPECT_EQ(buffer.size(), 100U);
  EXPECT_EQ(memory.used_bytes(), 0U);
  Tensor device = memory.allocate(DType::u8, {16});
  memory.clear(device.view());
  std::ranges::fill(buffer.first(100), std::byte{9});
  memory.download(device.view(), buffer.first(16));
  EXPECT_EQ(buffer.first(17)[15], std::byte{0});
  EXPECT_EQ(buffer.first(17)[16], std::byte{9});
  EXPECT_EQ(HostBuffer().size(), 0U);
  EXPECT_THROW(memory.allocate_host(std::size_t{1} << 62), MemoryError);
}

TEST(CpuMemoryTest, MovesBytes) {
  CpuMemory memory;
  HostTensor host(DType::i32, {3, 2});
  for (std::int32_t i = 0; i < 6; ++i) host.as<std::int32_t>()[static_cast<std::size_t>(i)] = i * i;
  Tensor device = memory.to_device(host);
  Tensor other = memory.allocate(DType::i32, {2, 3});
  memory.copy(device.view(), other.view());
  memory.clear(device.view());
  EXPECT_EQ(memory.to_host(other.view()).bytes, host.bytes);
  EXPECT_EQ(memory.to_host(device.view()).bytes, HostTensor(DType::i32, {3, 2}).bytes);
  EXPECT_EQ(memory.host_address(other.view()), other.view().data);
}

TEST(CpuMemoryTest, RefusesOtherSizes) {
  CpuMemory memory;
  Tensor tensor = memory.allocate(DType::f32, {4});
  const Tensor shorter = memory.allocate(DType::f32, {3});
  std::array<std::byte, 15> host{};
  EXPECT_THROW(memory.upload(host, tensor.view()), ShapeError);
  EXPECT_THROW(memory.download(tensor.view(), host), ShapeError);
  EXPECT_THROW(memory.copy(shorter.view(), tensor.view()), ShapeError);
}

}  // namespace
}  // namespace quern::test
