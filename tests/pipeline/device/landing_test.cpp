#include "pipeline/device/landing.h"

#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <utility>

#include "kernels/backend.h"

namespace quern {
namespace {

Tensor counted(Memory& memory, std::int64_t elems, std::int32_t first) {
  HostTensor host(DType::i32, {elems});
  const auto values = host.as<std::int32_t>();
  std::iota(values.begin(), values.end(), first);
  return memory.to_device(host);
}

TEST(Landing, FillsEveryArrayWithItsTypeAndShape) {
  const std::unique_ptr<Backend> backend = make_cpu_backend(1);
  Memory& memory = backend->memory();
  LandingBuffers buffers(memory);
  const Tensor numbers = counted(memory, 101, 5);
  const Tensor table = counted(memory, 6, -3);
  const Tensor nothing = memory.allocate(DType::f32, {0});
  HostTensor a;
  HostTensor b;
  HostTensor c(DType::u8, {9});
  Landing landing(buffers);
  landing.add(numbers.view(), a);
  landing.add(nothing.view(), c);
  landing.add(table.view().reshaped({2, 3}), b);
  landing.start(memory);
  memory.synchronize();
  Landing elsewhere = std::move(landing);
  elsewhere.unload();
  ASSERT_EQ(a.shape, Shape({101}));
  for (std::int32_t i = 0; i < 101; ++i) {
    EXPECT_EQ(a.as<std::int32_t>()[static_cast<std::size_t>(i)], 5 + i);
  }
  EXPECT_EQ(b.shape, Shape({2, 3}));
  EXPECT_EQ(b.as<std::int32_t>()[5], 2);
  EXPECT_EQ(c.dtype, DType::f32);
  EXPECT_TRUE(c.bytes.empty());
}

TEST(Landing, TakesTheSmallestFreeBufferThatFits) {
  const std::unique_ptr<Backend> backend = make_cpu_backend(1);
  Memory& memory = backend->memory();
  LandingBuffers buffers(memory);
  HostBuffer small = buffers.take(100);
  HostBuffer large = buffers.take(10000);
  const std::byte* const of_small = small.first(1).data();
  const std::byte* const of_large = large.first(1).data();
  buffers.give_back(std::move(large));
  buffers.give_back(std::move(small));
  HostBuffer first = buffers.take(50);
  HostBuffer second = buffers.take(50);
  EXPECT_EQ(first.first(1).data(), of_small);
  EXPECT_EQ(second.first(1).data(), of_large);
  EXPECT_GE(buffers.take(20000).size(), 20000U);
}

TEST(Landing, BuffersServeForALittleMoreThanWasAskedFor) {
  const std::unique_ptr<Backend> backend = make_cpu_backend(1);
  LandingBuffers buffers(backend->memory());
  HostBuffer buffer = buffers.take(1'000'000);
  const std::byte* const data = buffer.first(1).data();
  EXPECT_LE(buffer.size(), 1'125'000U);
  buffers.give_back(std::move(buffer));
  EXPECT_EQ(buffers.take(1'020'000).first(1).data(), data);
}

TEST(Landing, GivesTheBufferBackAlsoWhenNobodyUnloads) {
  const std::unique_ptr<Backend> backend = make_cpu_backend(1);
  Memory& memory = backend->memory();
  LandingBuffers buffers(memory);
  const Tensor numbers = counted(memory, 64, 0);
  HostTensor to;
  {
    Landing landing(buffers);
    landing.add(numbers.view(), to);
    landing.start(memory);
  }
  HostBuffer again = buffers.take(256);
  EXPECT_EQ(again.size(), 256U);  // the one that the landing had
}

}  // namespace
}  // namespace quern
