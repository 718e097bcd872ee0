#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "kernels/core/error.h"
#include "kernels/cuda_backend.h"

namespace quern::test {
namespace {

class CudaMemoryTest : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "no CUDA device on this machine";
    backend_ = make_cuda_backend({});
  }
  Memory& memory() { return backend_->memory(); }

  std::unique_ptr<Backend> backend_;
};

TEST_F(CudaMemoryTest, CountsWhatIsHandedOut) {
  const std::size_t before = memory().used_bytes();
  Tensor kept = memory().allocate(DType::f32, {100});
  const std::size_t peak = memory().peak_bytes();
  {
    const Tensor passing = memory().allocate(DType::u8, {1 << 28});
    EXPECT_EQ(memory().used_bytes(), before + 400U + (1U << 28));
  }
  EXPECT_EQ(memory().used_bytes(), before + 400U);
  EXPECT_GE(memory().peak_bytes(), peak);
  EXPECT_GE(memory().peak_bytes(), before + 400U + (1U << 28));
  kept = Tensor();
  EXPECT_EQ(memory().used_bytes(), before);
}

TEST_F(CudaMemoryTest, AlignsTo256Bytes) {
  std::vector<Tensor> tensors;
  for (const std::int64_t elems : {0, 1, 7, 64, 1000, 100000}) {
    tensors.push_back(memory().allocate(DType::u8, {elems}));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensors.back().view().data) % 256, 0U) << elems;
    EXPECT_FALSE(tensors.back().empty());
  }
}

TEST_F(CudaMemoryTest, RefusalNamesTheBytesAndLeavesTheDeviceUsable) {
  const std::size_t before = memory().used_bytes();
  for (const std::int64_t elems : {std::int64_t{1} << 60, std::int64_t{1} << 40}) {
    try {
      memory().allocate(DType::f32, {elems});
      FAIL();
    } catch (const MemoryError& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(std::to_string(elems * 4)));
      EXPECT_THAT(error.what(), testing::HasSubstr("are in use and"));
      EXPECT_THAT(error.what(), testing::HasSubstr("are allowed"));
    }
  }
  EXPECT_EQ(memory().used_bytes(), before);
  Tensor small = memory().allocate(DType::f32, {100});
  memory().clear(small.view());
  EXPECT_NO_THROW(memory().synchronize());
}

TEST_F(CudaMemoryTest, MovesBytes) {
  HostTensor host(DType::i32, {3, 2});
  for (std::int32_t i = 0; i < 6; ++i) host.as<std::int32_t>()[static_cast<std::size_t>(i)] = i * i;
  Tensor device = memory().to_device(host);
  Tensor other = memory().allocate(DType::i32, {2, 3});
  memory().copy(device.view(), other.view());
  memory().clear(device.view());
  EXPECT_EQ(memory().to_host(other.view()).bytes, host.bytes);
  EXPECT_EQ(memory().to_host(device.view()).bytes, HostTensor(DType::i32, {3, 2}).bytes);
  EXPECT_EQ(memory().host_address(other.view()), nullptr);
}

TEST_F(CudaMemoryTest, ReleasesOnlyAfterItsLastUse) {
  HostTensor ones(DType::f32, {1 << 20});
  std::ranges::fill(ones.as<float>(), 1.0F);
  Tensor out = memory().allocate(DType::f32, {1 << 20});
  memory().clear(out.view());
  for (int round = 0; round < 8; ++round) {
    Tensor passing = memory().allocate(DType::f32, {1 << 20});
    memory().upload(ones.bytes, passing.view());
    memory().copy(passing.view(), out.view());
  }
  EXPECT_EQ(memory().to_host(out.view()).bytes, ones.bytes);
}

TEST_F(CudaMemoryTest, WhatIsFreeAtTheStartIsTheLimit) {
  EXPECT_LT(memory().limit_bytes(), Memory::unlimited);
  EXPECT_GT(memory().limit_bytes(), memory().used_bytes());
  EXPECT_EQ(memory().free_bytes(), memory().limit_bytes() - memory().used_bytes());
  const auto shared = make_cuda_backend({.sharers = 4});
  EXPECT_LT(shared->memory().limit_bytes(), memory().limit_bytes() / 3);
}

TEST_F(CudaMemoryTest, ALowerLimitHolds) {
  constexpr std::size_t kLimit = std::size_t{300} << 20;
  const auto capped = make_cuda_backend({.memory_limit_bytes = kLimit});
  Memory& memory = capped->memory();
  EXPECT_EQ(memory.limit_bytes(), kLimit);
  const auto rest = static_cast<std::int64_t>(memory.free_bytes());
  EXPECT_THROW(memory.allocate(DType::u8, {rest + 1}), MemoryError);
  {
    const Tensor all = memory.allocate(DType::u8, {rest});
    EXPECT_EQ(memory.free_bytes(), 0U);
    EXPECT_THROW(memory.allocate(DType::u8, {1}), MemoryError);
  }
  EXPECT_EQ(memory.free_bytes(), static_cast<std::size_t>(rest));
  constexpr std::size_t kBeyondAnyDevice = std::size_t{1} << 60;
  const auto greedy = make_cuda_backend({.memory_limit_bytes = kBeyondAnyDevice});
  EXPECT_LT(greedy->memory().limit_bytes(), kBeyondAnyDevice / 1024);
}

TEST_F(CudaMemoryTest, HostBuffersCarryBytesBothWays) {
  HostBuffer buffer = memory().allocate_host(1 << 20);
  EXPECT_EQ(buffer.size(), std::size_t{1} << 20);
  const auto bytes = buffer.first(buffer.size());
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 256);
  const std::vector<std::byte> expected(bytes.begin(), bytes.end());
  Tensor device = memory().allocate(DType::u8, {1 << 20});
  memory().upload(bytes, device.view());
  memory().synchronize();
  std::ranges::fill(bytes, std::byte{0});
  memory().download(device.view(), bytes);
  memory().synchronize();
  EXPECT_TRUE(std::ranges::equal(bytes, expected));
  EXPECT_EQ(memory().allocate_host(0).size(), 0U);
}

TEST_F(CudaMemoryTest, ServesOtherThreads) {
  HostTensor host(DType::u8, {1000});
  std::ranges::fill(host.as<std::uint8_t>(), std::uint8_t{7});
  Tensor device;
  std::jthread([&] { device = memory().to_device(host); }).join();
  EXPECT_EQ(memory().to_host(device.view()).bytes, host.bytes);
}

}  // namespace
}  // namespace quern::test
