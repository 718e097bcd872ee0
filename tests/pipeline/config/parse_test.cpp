#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/pipeline/config/run_texts.h"

namespace quern::test {
namespace {

using std::chrono::seconds;
using testing::ElementsAre;

TEST(Parse, Defaults) {
  const RunFile run = parse(run_text()).run;
  EXPECT_EQ(run.model.path, "models/m");
  EXPECT_THAT(run.calibration.text.source, ElementsAre("text.txt"));
  EXPECT_EQ(run.calibration.text.field, "text");
  EXPECT_EQ(run.calibration.text.sequence_length, 2048);
  EXPECT_EQ(run.calibration.samples, 128);
  EXPECT_EQ(run.calibration.seed, 0U);
  EXPECT_EQ(run.calibration.micro_batch, 4);
  EXPECT_EQ(run.calibration.sampling, Sampling::random);
  EXPECT_EQ(run.calibration.text.bos, BosPolicy::automatic);
  EXPECT_EQ(run.quantize.method, Method::gptq);
  EXPECT_EQ(run.quantize.grid, (GridSpec{4, 128, true, ScaleSearch::weighted}));
  EXPECT_EQ(run.quantize.act_order, ActOrder::none);
  EXPECT_EQ(run.quantize.damping, 0.01);
  EXPECT_EQ(run.quantize.propagation, Propagation::quantized);
  EXPECT_TRUE(run.quantize.true_sequential);
  EXPECT_FALSE(run.quantize.lm_head);
  EXPECT_TRUE(run.quantize.rules.empty());
  EXPECT_EQ(run.output.format, OutputFormat::gptq);
  EXPECT_EQ(run.output.shard_bytes, 5'000'000'000U);
  EXPECT_TRUE(run.evaluate.text.source.empty());
  EXPECT_EQ(run.run.resume, Resume::automatic);
  EXPECT_EQ(run.run.watchdog, seconds(6));
  EXPECT_EQ(run.run.deadline, seconds(3600));
  EXPECT_EQ(run.run.log_level, LogLevel::info);
}

constexpr const char* kEveryKey = R"(
model: {path: /models/a b, ignore_fields: [pad_head, x]}
calibration:
  source: [one.jsonl.gz, 'two #2.npy']
  field: content
  samples: 7
  sequence_length: 33
  seed: 9007199254740991
  micro_batch: 2
  sampling: sequential
  max_characters: 400000
  bos: always
quantize:
  method: gptq
  bits: 3
  group_size: -1
  symmetric: false
  act_order: group_aware
  scale_search: absmax
  damping: 1e-2
  propagation: original
  true_sequential: false
  lm_head: true
  rules:
    - match: 'a\.b'
      bits: 8
      group_size: 1024
      symmetric: true
    - {match: c, skip: true}
output: {path: o, format: dequantized, shard_size: 2GiB}
evaluate:
  {source: e.txt, field: f, sequence_length: 2, samples: 5, micro_batch: 6, max_characters: 8,
   bos: never}
run:
  directory: r
  device: cpu
  activation_type: float32
  resume: required
  threads: 3
  save_activations: 4
  watchdog: 90s
  deadline: 5min
  log_level: debug
  ignore_numerics: true
)";

TEST(Parse, EveryKeyOfTheInputs) {
  const RunFile run = parse(kEveryKey).run;
  EXPECT_EQ(run.model.path, "/models/a b");
  EXPECT_THAT(run.model.ignore_fields, ElementsAre("pad_head", "x"));
  EXPECT_THAT(run.calibration.text.source, ElementsAre("one.jsonl.gz", "two #2.npy"));
  EXPECT_EQ(run.calibration.text.field, "content");
  EXPECT_EQ(run.calibration.samples, 7);
  EXPECT_EQ(run.calibration.text.sequence_length, 33);
  EXPECT_EQ(run.calibration.seed, 9007199254740991U);
  EXPECT_EQ(run.calibration.micro_batch, 2);
  EXPECT_EQ(run.calibration.sampling, Sampling::sequential);
  EXPECT_EQ(run.calibration.text.max_characters, 400000);
  EXPECT_EQ(run.calibration.text.bos, BosPolicy::always);
}

TEST(Parse, EveryKeyOfTheMethod) {
  const RunFile run = parse(kEveryKey).run;
  EXPECT_EQ(run.quantize.grid, (GridSpec{3, -1, false, ScaleSearch::absmax}));
  EXPECT_EQ(run.quantize.act_order, ActOrder::group_aware);
  EXPECT_EQ(run.quantize.damping, 0.01);
  EXPECT_EQ(run.quantize.propagation, Propagation::original);
  EXPECT_FALSE(run.quantize.true_sequential);
  EXPECT_TRUE(run.quantize.lm_head);
  ASSERT_EQ(run.quantize.rules.size(), 2U);
  EXPECT_EQ(run.quantize.rules[0].match, "a\\.b");
  EXPECT_EQ(run.quantize.rules[0].bits, 8);
  EXPECT_EQ(run.quantize.rules[0].group_size, 1024);
  EXPECT_EQ(run.quantize.rules[0].symmetric, true);
  EXPECT_FALSE(run.quantize.rules[0].skip);
  EXPECT_TRUE(run.quantize.rules[1].skip);
  EXPECT_EQ(run.quantize.rules[1].bits, std::nullopt);
}

TEST(Parse, EveryKeyOfTheRun) {
  const RunFile run = parse(kEveryKey).run;
  EXPECT_EQ(run.output.format, OutputFormat::dequantized);
  EXPECT_EQ(run.output.shard_bytes, 2'147'483'648U);
  EXPECT_THAT(run.evaluate.text.source, ElementsAre("e.txt"));
  EXPECT_EQ(run.evaluate.text.field, "f");
  EXPECT_EQ(run.evaluate.text.sequence_length, 2);
  EXPECT_EQ(run.evaluate.samples, 5);
  EXPECT_EQ(run.evaluate.micro_batch, 6);
  EXPECT_EQ(run.evaluate.text.max_characters, 8);
  EXPECT_EQ(run.evaluate.text.bos, BosPolicy::never);
  EXPECT_EQ(run.run.directory, "r");
  EXPECT_EQ(run.run.device, Device::cpu);
  EXPECT_EQ(run.run.activation_type, ActivationType::float32);
  EXPECT_EQ(run.run.resume, Resume::required);
  EXPECT_EQ(run.run.threads, 3);
  EXPECT_EQ(run.run.save_activations, 4);
  EXPECT_EQ(run.run.watchdog, seconds(90));
  EXPECT_EQ(run.run.deadline, seconds(300));
  EXPECT_EQ(run.run.log_level, LogLevel::debug);
  EXPECT_TRUE(run.run.ignore_numerics);
}

TEST(Parse, Spellings) {
  const auto shard = [](const std::string& value) {
    return parse(run_text(), {"output.shard_size=" + value}).run.output.shard_bytes;
  };
  EXPECT_EQ(shard("500MB"), 500'000'000U);
  EXPECT_EQ(shard("1GiB"), 1'073'741'824U);
  EXPECT_EQ(shard("64 KiB"), 65'536U);
  EXPECT_EQ(shard("4096B"), 4096U);
  EXPECT_EQ(shard("'5GB'"), 5'000'000'000U);
  EXPECT_EQ(shard("123456789"), 123'456'789U);
  const auto damping = [](const std::string& value) {
    return parse(run_text(), {"quantize.damping=" + value}).run.quantize.damping;
  };
  EXPECT_EQ(damping("1"), 1.0);
  EXPECT_EQ(damping(".5"), 0.5);
  EXPECT_EQ(damping("2.5E-3"), 0.0025);
  EXPECT_EQ(parse(run_text(), {"run.watchdog=2h"}).run.run.watchdog, seconds(7200));
  EXPECT_EQ(complaint("\xEF\xBB\xBF" + run_text()), "") << "a byte order mark is allowed";
}

TEST(Parse, WindowsLineEndsAndJson) {
  EXPECT_EQ(parse("model: {path: a}\r\ncalibration:\r\n  source: b\r\noutput: {path: c}\r\n"
                  "run: {directory: d}\r\n")
                .run.calibration.text.source.front(),
            "b");
  EXPECT_EQ(parse(R"({"model": {"path": "a"}, "calibration": {"source": ["b"]},
                      "output": {"path": "c"}, "run": {"directory": "d"},
                      "quantize": {"bits": 3}})")
                .run.quantize.grid.bits,
            3);
}

TEST(Parse, OverridesReplaceAndAdd) {
  const ParsedRunFile parsed =
      parse(run_text("quantize:\n  bits: 4\n"),
            {"quantize.bits=3", "quantize.rules=[{match: 'x.*', skip: true}]",
             "evaluate.source=[a.txt, b.txt]", "quantize.bits=8", "output.path=o=1"});
  EXPECT_EQ(parsed.run.quantize.grid.bits, 8);
  ASSERT_EQ(parsed.run.quantize.rules.size(), 1U);
  EXPECT_THAT(parsed.run.evaluate.text.source, ElementsAre("a.txt", "b.txt"));
  EXPECT_EQ(parsed.run.output.path, "o=1");

  const ParsedRunFile alone = parse("", {"model.path=m", "calibration.source=c", "output.path=o",
                                         "run={directory: r, threads: 2}"});
  EXPECT_EQ(alone.run.run.directory, "r");
  EXPECT_EQ(alone.run.run.threads, 2);
}

TEST(Parse, OverridesMendWhatTheFileLacksOrSpoils) {
  EXPECT_EQ(complaint(run_text("quantize: {bits: 77}\n"), {"quantize.bits=2"}), "");
  EXPECT_EQ(
      complaint("output: {path: o}\n", {"model.path=m", "calibration.source=c", "run.directory=r"}),
      "");
}

TEST(Parse, Origins) {
  const auto origin =
      parse(run_text("quantize:\n  bits: 4\n  group_size: 64\n  rules:\n    - {match: a, bits: 3}\n"
                     "    - match: b\n      skip: true\n"),
            {"quantize.group_size=32"})
          .origin;
  EXPECT_EQ(origin.at("model.path"), "run.yaml:1");
  EXPECT_EQ(origin.at("quantize.bits"), "run.yaml:6");
  EXPECT_EQ(origin.at("quantize.group_size"), "--set");
  EXPECT_EQ(origin.at("quantize.damping"), "default");
  EXPECT_EQ(origin.at("quantize.rules[0]"), "run.yaml:9");
  EXPECT_EQ(origin.at("quantize.rules[1]"), "run.yaml:10");
  EXPECT_EQ(origin.at("evaluate.source"), "default");
}

TEST(Parse, OriginalPropagationTurnsTrueSequentialOff) {
  EXPECT_FALSE(parse(run_text("quantize: {propagation: original}\n")).run.quantize.true_sequential);
  EXPECT_TRUE(parse(run_text()).run.quantize.true_sequential);
}

TEST(Parse, RoundToNearestNeedsNoCalibration) {
  const RunFile run = parse(
                          "model: {path: m}\nquantize: {method: rtn, act_order: none}\n"
                          "output: {path: o}\nrun: {directory: r}\n")
                          .run;
  EXPECT_EQ(run.quantize.method, Method::rtn);
  EXPECT_TRUE(run.calibration.text.source.empty());
}

TEST(Parse, DequantizedAllowsEveryBitCount) {
  for (int bits = 2; bits <= 8; ++bits) {
    const RunFile run =
        parse(run_text(), {"output.format=dequantized", "quantize.bits=" + std::to_string(bits)})
            .run;
    EXPECT_EQ(run.quantize.grid.bits, bits);
  }
}

}  // namespace
}  // namespace quern::test
