#include <gtest/gtest.h>

#include <iostream>

#include "pipeline/data/windows.h"
#include "pipeline/stages/evaluate.h"
#include "tests/support/paths.h"
#include "tests/workers/test_session.h"
#include "workers/files/json_file.h"

namespace quern::test {
namespace {

class GoldenPerplexity : public testing::TestWithParam<const char*> {};

/// 64 windows of 512 from the first 400,000 characters of the evaluation text.
TEST_P(GoldenPerplexity, IsThatOfTheReference) {
  if (shared_dir().empty()) GTEST_SKIP() << kNoShared;
  const std::string name = GetParam();
  const auto golden = read_json_file(shared_dir() / "golden" / (name + ".json"));
  const OpenModel model = open_model(shared_dir() / "models" / name, {});
  const auto tokenizer = load_tokenizer(model.folder);
  const EvaluateConfig config{.text = {.source = {shared_dir() / "data" / "eval.txt"},
                                       .sequence_length = 512,
                                       .max_characters = 400'000,
                                       .bos = BosPolicy::always},
                              .samples = 64};
  const ModelGeometry& geometry = model.graph.geometry;
  TokenWindows tokens = evaluation_windows(
      config, tokenizer.get(), {geometry.vocab, geometry.max_positions, geometry.bos_id});
  Session session = quiet_session();
  const Perplexity found = evaluate_perplexity(session, model.graph, *model.weights,
                                               MicroBatches(std::move(tokens.ids), 4));
  const double expected = golden.at("perplexity");
  EXPECT_EQ(found.tokens, golden.at("tokens_scored").get<std::int64_t>());
  EXPECT_NEAR(found.perplexity, expected, 5e-4 * expected);
  std::cout << name << " perplexity " << found.perplexity << ", reference " << expected
            << ", relative difference " << found.perplexity / expected - 1.0 << "\n";
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenPerplexity,
                         testing::Values("llama3m", "llama20m", "mistral9m"),
                         [](const auto& model) { return std::string(model.param); });

}  // namespace
}  // namespace quern::test
