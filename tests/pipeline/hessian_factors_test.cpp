#include "pipeline/hessian_factors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/backend.h"
#include "kernels/cuda_backend.h"
#include "tests/kernels/cpu/solver_case.h"

namespace quern::test {
namespace {

/// A solver of a host that counts as one of a device.
class Recorder final : public Solver {
 public:
  explicit Recorder(Solver& solver) : solver_(solver) {}
  std::size_t factors_at_once(std::int64_t columns) const noexcept override {
    return columns == 5 ? 4 : 2;
  }
  const std::vector<std::size_t>& batches() const { return batches_; }

 private:
  std::vector<HessianFactor> do_factorise(std::span<const HessianTask> tasks) override {
    batches_.push_back(tasks.size());
    return solver_.factorise(tasks);
  }
  std::vector<QuantizedTensor> do_gptq(std::span<const GridModule>, const HessianFactor&) override {
    return {};
  }
  std::vector<QuantizedTensor> do_round_to_nearest(std::span<const GridModule>,
                                                   std::optional<ConstTensorView>) override {
    return {};
  }
  void do_dequantize(const QuantizedTensor&, TensorView) override {}
  void do_quadratic_error(ConstTensorView, ConstTensorView, const GramView&, TensorView) override {}
  void do_pack(ConstTensorView, int, TensorView) override {}
  void do_unpack(ConstTensorView, int, TensorView) override {}

  Solver& solver_;
  std::vector<std::size_t> batches_;
};

/// Inputs of two sizes, which want none, one, and more factors than are made at once.
TEST(HessianFactors, EveryInputGetsItsOwn) {
  const std::unique_ptr<Backend> backend = make_cpu_backend(1);
  Memory& memory = backend->memory();
  std::vector<GramCase> hessians;
  for (unsigned i = 0; i < 17; ++i) {
    const std::int64_t columns = i < 11 ? 5 : 7;
    hessians.push_back(make_gram(memory, correlated_hessian(columns, i)));
  }
  std::vector<std::vector<HessianTask>> wanted;
  std::size_t used = 0;
  for (const std::size_t count : {1U, 0U, 2U, 8U, 3U, 3U, 0U}) {
    auto& of_input = wanted.emplace_back();
    for (std::size_t i = 0; i < count; ++i) of_input.push_back({"m", hessians[used++].view()});
  }
  ASSERT_EQ(used, hessians.size());
  Recorder recorder(backend->solver());
  HessianFactors factors(recorder, wanted);
  for (const std::vector<HessianTask>& of_input : wanted) {
    const std::vector<HessianFactor> made = factors.next();
    ASSERT_EQ(made.size(), of_input.size());
    for (std::size_t i = 0; i < made.size(); ++i) {
      const HessianFactor alone = backend->solver().factorise(of_input[i]);
      EXPECT_EQ(memory.to_host(made[i].feedback.view()).bytes,
                memory.to_host(alone.feedback.view()).bytes);
    }
  }
  EXPECT_THAT(recorder.batches(), testing::ElementsAre(4, 4, 3, 2, 2, 2));
}

/// They would fill the device.
TEST(HessianFactors, NoMoreOnAGpuThanIsOfUse) {
  EXPECT_EQ(cuda_factors_at_once(1), 8U);
  EXPECT_EQ(cuda_factors_at_once(4096), 8U);
  EXPECT_EQ(cuda_factors_at_once(7168), 2U);
  EXPECT_EQ(cuda_factors_at_once(8192), 2U);
  EXPECT_EQ(cuda_factors_at_once(28672), 1U);
}

}  // namespace
}  // namespace quern::test
