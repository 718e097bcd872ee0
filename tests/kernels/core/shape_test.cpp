#include "kernels/core/shape.h"

#include <gtest/gtest.h>

#include <limits>

#include "kernels/core/error.h"

namespace quern::test {
namespace {

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();

TEST(ShapeTest, CountsElements) {
  EXPECT_EQ(Shape().elems(), 1);
  EXPECT_EQ(Shape().rank(), 0U);
  EXPECT_EQ((Shape{0}).elems(), 0);
  EXPECT_EQ((Shape{2, 3, 5, 7}).elems(), 210);
  EXPECT_EQ((Shape{kMax}).elems(), kMax);
  EXPECT_EQ((Shape{4096, 11008})[1], 11008);
}

TEST(ShapeTest, ComparesRankAndDimensions) {
  EXPECT_EQ((Shape{2, 3}), (Shape{2, 3}));
  EXPECT_NE((Shape{2, 3}), (Shape{3, 2}));
  EXPECT_NE((Shape{6}), (Shape{2, 3}));
  EXPECT_NE((Shape{6}), (Shape{6, 1}));
  EXPECT_NE(Shape(), (Shape{1}));
}

TEST(ShapeTest, PrintsLikeAList) {
  EXPECT_EQ((Shape{4096, 11008}).text(), "[4096, 11008]");
  EXPECT_EQ(Shape().text(), "[]");
}

TEST(ShapeTest, RefusesWhatDoesNotFit) {
  EXPECT_THROW((Shape{-1}), ShapeError);
  EXPECT_THROW((Shape{2, -3}), ShapeError);
  EXPECT_THROW((Shape{1, 1, 1, 1, 1}), ShapeError);
  EXPECT_THROW((Shape{kMax, 2}), ShapeError);
  EXPECT_THROW((Shape{std::int64_t{1} << 32, std::int64_t{1} << 32}), ShapeError);
  EXPECT_THROW((Shape{2})[1], InternalError);
}

}  // namespace
}  // namespace quern::test
