#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
      EXPECT_THAT(error.what(), testing::HasSubstr("are in use here"));
      EXPECT_THAT(error.what(), testing::HasSubstr("are free on the device"));
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

TEST_F(CudaMemoryTest, ServesOtherThreads) {
  HostTensor host(DType::u8, {1000});
  std::ranges::fill(host.as<std::uint8_t>(), std::uint8_t{7});
  Tensor device;
  std::jthread([&] { device = memory().to_device(host); }).join();
  EXPECT_EQ(memory().to_host(device.view()).bytes, host.bytes);
}

}  // namespace
}  // namespace quern::test
