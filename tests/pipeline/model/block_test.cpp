#include <gtest/gtest.h>

#include "tests/pipeline/model/block_pass.h"
#include "tests/pipeline/model/rounded_backend.h"
#include "tests/workers/test_session.h"

namespace quern::test {
namespace {

/// The roundings of the 16-bit types alone take less than is allowed to a GPU.
TEST(Block, WithRoundedActivationsWithinTheToleranceOfTheirType) {
  for (const BlockVariant& variant : block_variants()) {
    for (const DType type : {DType::bf16, DType::f16}) {
      Session session = quiet_session();
      session.backend = make_rounded_backend(session.threads, type);
      for (const std::int64_t length : {1, 33, 129}) {
        expect_block_like_cpu(variant, session, type, length);
      }
    }
  }
}

}  // namespace
}  // namespace quern::test
