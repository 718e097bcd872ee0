#include "pipeline/stages/evaluate.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "pipeline/data/windows.h"
#include "tests/support/mpi_test_main.h"
#include "tests/support/paths.h"
#include "tests/workers/test_session.h"

namespace quern::test {
namespace {

Perplexity evaluate_windows(Session& session, std::int64_t windows, std::int64_t micro_batch) {
  const std::filesystem::path data = source_dir() / "tests/data";
  const OpenModel model = open_model(data / "llama3m", {});
  const auto tokenizer = load_tokenizer(data / "llama3m");
  const EvaluateConfig config{.text = {.source = {data / "evaluation.txt"}, .sequence_length = 64},
                              .samples = windows};
  const ModelGeometry& geometry = model.graph.geometry;
  TokenWindows tokens = evaluation_windows(
      config, tokenizer.get(), {geometry.vocab, geometry.max_positions, geometry.bos_id});
  const MicroBatches batches(std::move(tokens.ids), micro_batch);
  return evaluate_perplexity(session, model.graph, *model.weights, batches);
}

TEST(Evaluate, MeanIsTheSameBitsForAnyNumberOfRanks) {
  Session session = quiet_session(&mpi_environment());
  Session alone = quiet_session();
  for (const std::int64_t windows : {1, 7}) {  // 7: the last micro-batch is short
    const Perplexity together = evaluate_windows(session, windows, 2);
    const Perplexity single = evaluate_windows(alone, windows, 2);
    EXPECT_EQ(std::bit_cast<std::uint64_t>(together.mean_nll),
              std::bit_cast<std::uint64_t>(single.mean_nll));
    EXPECT_EQ(together.windows, windows);
    EXPECT_EQ(together.tokens, windows * 63);
    EXPECT_EQ(together.perplexity, std::exp(together.mean_nll));
    EXPECT_GT(together.perplexity, 5.0);
    EXPECT_LT(together.perplexity, 200.0);
  }
}

TEST(Evaluate, MicroBatchSizeHardlyMatters) {
  Session session = quiet_session(&mpi_environment());
  const Perplexity small = evaluate_windows(session, 6, 1);
  const Perplexity large = evaluate_windows(session, 6, 6);
  EXPECT_NEAR(small.mean_nll, large.mean_nll, 1e-6);
}

}  // namespace
}  // namespace quern::test
