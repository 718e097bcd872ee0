#include "kernels/core/tensor.h"

#include <gtest/gtest.h>

#include <array>

#include "kernels/core/error.h"

namespace quern::test {
namespace {

TEST(TensorViewTest, CutsRows) {
  std::array<std::byte, 60> memory{};
  const TensorView view{memory.data(), DType::f16, {5, 3, 2}};
  EXPECT_EQ(view.bytes(), 60U);
  const TensorView middle = view.rows(1, 3);
  EXPECT_EQ(middle.data - view.data, 12);
  EXPECT_EQ(middle.shape, (Shape{3, 3, 2}));
  EXPECT_EQ(view.rows(5, 0).elems(), 0);
  EXPECT_EQ(ConstTensorView(view).rows(4, 1).data - view.data, 48);
}

TEST(TensorViewTest, RefusesRowsOutside) {
  const TensorView view{nullptr, DType::f32, {5, 3}};
  EXPECT_THROW(view.rows(0, 6), ShapeError);
  EXPECT_THROW(view.rows(5, 1), ShapeError);
  EXPECT_THROW(view.rows(-1, 1), ShapeError);
  EXPECT_THROW(view.rows(1, -1), ShapeError);
  EXPECT_THROW(view.rows(1, std::int64_t{1} << 62), ShapeError);
  EXPECT_THROW((TensorView{nullptr, DType::f32, Shape()}.rows(0, 1)), ShapeError);
}

TEST(TensorViewTest, ReshapesSameElements) {
  const ConstTensorView view{nullptr, DType::f32, {6, 4}};
  EXPECT_EQ(view.reshaped({3, 8}).shape, (Shape{3, 8}));
  EXPECT_THROW(view.reshaped({5, 5}), ShapeError);
}

TEST(TensorTest, GivesItsMemoryBackOnce) {
  std::array<std::byte, 16> memory{};
  int freed = 0;
  const auto deleter = [&](std::byte* data) {
    EXPECT_EQ(data, memory.data());
    ++freed;
  };
  {
    Tensor first(memory.data(), deleter, DType::f32, {4});
    Tensor second = std::move(first);
    EXPECT_TRUE(first.empty());
    EXPECT_FALSE(second.empty());
    EXPECT_EQ(second.view().data, memory.data());
    EXPECT_EQ(freed, 0);
  }
  EXPECT_EQ(freed, 1);
}

TEST(HostTensorTest, IsZeroedAndTyped) {
  HostTensor tensor(DType::i32, {2, 3});
  EXPECT_EQ(tensor.bytes.size(), 24U);
  EXPECT_EQ(tensor.as<std::int32_t>()[5], 0);
  EXPECT_THROW(tensor.as<double>(), InternalError);
  EXPECT_EQ(HostTensor().bytes.size(), 0U);
}

}  // namespace
}  // namespace quern::test
