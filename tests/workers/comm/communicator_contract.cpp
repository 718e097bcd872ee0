#include "tests/workers/comm/communicator_contract.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <limits>
#include <span>
#include <vector>

#include "kernels/core/error.h"
#include "tests/support/mpi_test_main.h"

namespace quern::test {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

std::vector<std::byte> pattern(std::size_t bytes, std::int64_t seed) {
  std::vector<std::byte> values(bytes);
  for (std::size_t i = 0; i < bytes; ++i) {
    values[i] = static_cast<std::byte>(i * 31 + (i >> 8) + static_cast<std::size_t>(seed) * 101);
  }
  return values;
}

constexpr std::size_t kSizes[] = {0, 1, 7, 63, 64, 65, 128, 1000, 200'000};

TEST_P(CommunicatorContract, KnowsItsPlace) {
  EXPECT_EQ(size(), GetParam().all_ranks ? mpi_environment().size() : 1);
  EXPECT_EQ(rank(), GetParam().all_ranks ? mpi_environment().rank() : 0);
  ranks().barrier();
}

TEST_P(CommunicatorContract, BroadcastsFromEveryRoot) {
  for (int root = 0; root < size(); ++root) {
    for (const std::size_t bytes : kSizes) {
      std::vector<std::byte> buffer = pattern(bytes, rank());
      ranks().broadcast(std::span<std::byte>(buffer), root);
      EXPECT_EQ(buffer, pattern(bytes, root)) << bytes << " bytes from " << root;
    }
  }
}

TEST_P(CommunicatorContract, BroadcastsMessagesOfASizeOnlyTheRootKnows) {
  for (int root = 0; root < size(); ++root) {
    for (const std::size_t bytes : kSizes) {
      const bool is_root = rank() == root;
      std::vector<std::byte> message = pattern(is_root ? bytes : 17, rank());
      EXPECT_EQ(broadcast_message(ranks(), std::move(message), root), pattern(bytes, root));
    }
  }
}

TEST_P(CommunicatorContract, GathersUnequalSizesAtEveryRoot) {
  for (int root = 0; root < size(); ++root) {
    for (const std::size_t unit : {0UL, 1UL, 64UL, 65UL, 30'000UL}) {
      const auto bytes = unit * static_cast<std::size_t>((rank() + root) % size());
      const auto parts = ranks().gather(pattern(bytes, rank()), root);
      if (rank() != root) {
        EXPECT_TRUE(parts.empty());
        continue;
      }
      ASSERT_EQ(parts.size(), static_cast<std::size_t>(size()));
      for (std::size_t source = 0; source < parts.size(); ++source) {
        const auto expected = unit * ((source + static_cast<std::size_t>(root)) % parts.size());
        EXPECT_EQ(parts[source], pattern(expected, static_cast<std::int64_t>(source)));
      }
    }
  }
}

TEST_P(CommunicatorContract, SumsAndMaximaAreKnownToAll) {
  for (const std::size_t count : {0UL, 1UL, 7UL, 8UL, 9UL, 1000UL, 50'000UL}) {
    std::vector<std::int64_t> sums(count);
    std::vector<std::int64_t> maxima(count);
    for (std::size_t i = 0; i < count; ++i) {
      const auto index = static_cast<std::int64_t>(i);
      sums[i] = index * 7919 - (rank() + 1) * (1LL << 40);
      maxima[i] = (index % size() == rank()) ? index : -index - 1;
    }
    ranks().sum(sums);
    ranks().maximum(maxima);
    for (std::size_t i = 0; i < count; ++i) {
      const auto index = static_cast<std::int64_t>(i);
      ASSERT_EQ(sums[i], size() * index * 7919 - size() * (size() + 1) / 2 * (1LL << 40));
      ASSERT_EQ(maxima[i], index);
    }
  }
}

TEST_P(CommunicatorContract, KeepsEveryBitOf64) {
  constexpr auto kLeast = std::numeric_limits<std::int64_t>::min();
  constexpr auto kMost = std::numeric_limits<std::int64_t>::max();
  const bool first = rank() == 0;
  std::vector<std::int64_t> values{first ? kLeast + (size() - 1) : -1,
                                   first ? kMost - (size() - 1) : 1, first ? (1LL << 60) + 1 : 0};
  ranks().sum(values);
  EXPECT_THAT(values, testing::ElementsAre(kLeast, kMost, (1LL << 60) + 1));

  values = {kLeast, rank() + 1 == size() ? kMost : kLeast, -1 - rank()};
  ranks().maximum(values);
  EXPECT_THAT(values, testing::ElementsAre(kLeast, kMost, -1));
}

TEST_P(CommunicatorContract, BroadcastsTensorsAndTouchesNothingElse) {
  for (int root = 0; root < size(); ++root) {
    for (const DType dtype : {DType::u8, DType::bf16, DType::f32, DType::i64}) {
      for (const std::int64_t rows : {0, 1, 3, 1001}) {
        HostTensor host(dtype, {rows + 2, 5});
        host.bytes = pattern(host.bytes.size(), rank());
        Tensor device = memory().to_device(host);
        ranks().broadcast(device.view().rows(1, rows), root);

        const std::vector<std::byte> sent = pattern(host.bytes.size(), root);
        const auto row_bytes = static_cast<std::ptrdiff_t>(5 * dtype_bytes(dtype));
        std::copy(sent.begin() + row_bytes, sent.end() - row_bytes, host.bytes.begin() + row_bytes);
        EXPECT_EQ(memory().to_host(device.view()).bytes, host.bytes)
            << dtype_name(dtype) << " x " << rows;
      }
    }
  }
}

TEST_P(CommunicatorContract, ReducesTensorsToEveryRoot) {
  for (int root = 0; root < size(); ++root) {
    for (const std::int64_t rows : {0, 1, 3, 333, 20'000}) {
      HostTensor host(DType::i64, {rows, 3});
      std::int64_t index = 0;
      for (std::int64_t& value : host.as<std::int64_t>()) {
        value = (index++ - 100) * (1LL << 40) + (rank() + 1) * (rank() + 1);
      }
      Tensor device = memory().to_device(host);
      ranks().reduce_sum(device.view(), root);
      if (rank() != root) continue;
      const HostTensor result = memory().to_host(device.view());
      index = 0;
      const std::int64_t squares = size() * (size() + 1) * (2 * size() + 1) / 6;
      for (const std::int64_t value : result.as<std::int64_t>()) {
        ASSERT_EQ(value, size() * (index++ - 100) * (1LL << 40) + squares);
      }
    }
  }
}

TEST_P(CommunicatorContract, RefusesToSumWhatIsNotFixedPoint) {
  for (const DType dtype : {DType::f32, DType::i32, DType::f64}) {
    Tensor device = memory().allocate(dtype, {2, 2});
    EXPECT_THAT([&] { ranks().reduce_sum(device.view(), 0); },
                ThrowsMessage<ShapeError>(HasSubstr("expected I64")));
  }
}

TEST_P(CommunicatorContract, RefusesARootThatDoesNotExist) {
  std::vector<std::byte> bytes(3);
  Tensor device = memory().allocate(DType::i64, {2});
  for (const int root : {-1, static_cast<int>(size())}) {
    EXPECT_THROW(ranks().broadcast(std::span<std::byte>(bytes), root), InternalError);
    EXPECT_THROW(ranks().broadcast(device.view(), root), InternalError);
    EXPECT_THROW(ranks().reduce_sum(device.view(), root), InternalError);
    EXPECT_THAT([&] { ranks().gather(bytes, root); },
                ThrowsMessage<InternalError>(HasSubstr("does not exist")));
  }
  ranks().barrier();
}

TEST_P(CommunicatorContract, NoticesRanksThatCallDifferentCollectives) {
  if (size() == 1) GTEST_SKIP() << "one rank always agrees with itself";
  std::vector<std::byte> bytes = pattern(rank() == 0 ? 8 : 16, 1);
  const std::vector<std::byte> before = bytes;
  EXPECT_THAT([&] { ranks().broadcast(std::span<std::byte>(bytes), 0); },
              ThrowsMessage<InternalError>(HasSubstr("of 8 to 16 bytes")));
  EXPECT_EQ(bytes, before);
  const auto different = [&] {
    if (rank() == 0) {
      ranks().barrier();
    } else {
      ranks().gather({}, 0);
    }
  };
  EXPECT_THAT(different, ThrowsMessage<InternalError>(HasSubstr("from barrier to gather")));
  EXPECT_THROW(ranks().broadcast(std::span<std::byte>(bytes), rank() == 0 ? 0 : 1), InternalError);
  std::vector<std::int64_t> ones{1};
  ranks().sum(ones);
  EXPECT_EQ(ones[0], size());
}

TEST_P(CommunicatorContract, TwoCommunicatorsDoNotMix) {
  const auto other = connect();
  for (int round = 0; round < 20; ++round) {
    std::vector<std::int64_t> first{1};
    std::vector<std::int64_t> second{round};
    ranks().sum(first);
    other->maximum(second);
    EXPECT_EQ(first[0], size());
    EXPECT_EQ(second[0], round);
  }
}

}  // namespace
}  // namespace quern::test
