#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/pipeline/config/run_texts.h"

namespace quern::test {
namespace {

using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

/// A mistaken text, the place and key its message starts with, and words it must contain.
struct Mistake {
  std::string text;
  std::string start;
  std::string words;
};

void expect_messages(const std::vector<Mistake>& mistakes) {
  for (const Mistake& mistake : mistakes) {
    EXPECT_THAT(complaint(mistake.text),
                AllOf(StartsWith("run.yaml:" + mistake.start), HasSubstr(mistake.words)))
        << mistake.text.substr(0, 400);
  }
}

TEST(Mistakes, UnknownKeys) {
  expect_messages({
      {run_text("quantise: {bits: 4}\n"), "5:1: quantise: unknown key", "mean 'quantize'?"},
      {run_text("quantize:\n  bist: 4\n"), "6:3: quantize.bist: unknown key", "mean 'bits'?"},
      {run_text("quantize: {groupsize: 64}\n"), "5:12: quantize.groupsize:", "mean 'group_size'?"},
      {run_text("quantize: {seed: 1}\n"), "5:12: quantize.seed:", "belongs to 'calibration'"},
      {run_text("bits: 3\n"), "5:1: bits:", "it belongs to 'quantize'"},
      {run_text("quantize: {xyzzy: 1}\n"), "5:12: quantize.xyzzy:", "remove it"},
      {run_text("sweeps: {bits: [3, 4]}\n"), "5:1: sweeps:", "mean 'sweep'?"},
      {run_text("sweep: {damping: 1}\n"), "5:9: sweep.damping:", "belongs to 'quantize'"},
      {run_text("sweep: {points: [{bit: 3}]}\n"), "5:19: sweep.points[0].bit:", "mean 'bits'?"},
      {run_text("quantize: {sparsity: {magnitud: 0.1}}\n"),
       "5:23: quantize.sparsity.magnitud:", "mean 'magnitude'?"},
      {run_text("quantize:\n  rules:\n    - {match: a, bit: 3}\n"),
       "7:18: quantize.rules[0].bit:", "mean 'bits'?"},
      {run_text("Quantize: {bits: 4}\n"), "5:1: Quantize:", "mean 'quantize'?"},
  });
}

TEST(Mistakes, TypesAndSpelling) {
  expect_messages({
      {run_text("quantize: {bits: four}\n"), "5:18: quantize.bits: 'four'", "from 2 to 8"},
      {run_text("quantize: {bits: '4'}\n"), "5:18: quantize.bits:", "the quoted text '4'"},
      {run_text("quantize: {bits: 0x4}\n"), "5:18: quantize.bits:", "decimal digits"},
      {run_text("quantize: {bits: 04}\n"), "5:18: quantize.bits:", "not an integer"},
      {run_text("quantize: {bits: 4.0}\n"), "5:18: quantize.bits:", "not an integer"},
      {run_text("quantize: {bits: [3, 4]}\n"), "5:18: quantize.bits: a list", "an integer"},
      {run_text("quantize: {bits: {a: 4}}\n"), "5:18: quantize.bits: a mapping", "an integer"},
      {run_text("quantize: {bits: }\n"), "5:12: quantize.bits: empty", "an integer"},
      {run_text("quantize:\n  symmetric: yes\n"), "6:14: quantize.symmetric: 'yes'",
       "true or false"},
      {run_text("quantize: {symmetric: True}\n"), "5:23: quantize.symmetric:", "lower case"},
      {run_text("quantize: {lm_head: 1}\n"), "5:21: quantize.lm_head: '1'", "true or false"},
      {run_text("quantize: {damping: small}\n"), "5:21: quantize.damping:", "1e-2"},
      {run_text("quantize: {damping: .nan}\n"), "5:21: quantize.damping:", "not a number"},
      {run_text("quantize: {damping: 0x1p-3}\n"), "5:21: quantize.damping:", "not a number"},
      {run_text("quantize: {method: gtpq}\n"), "5:20: quantize.method: 'gtpq'", "mean 'gptq'?"},
      {run_text("quantize: {method: awq}\n"),
       "5:20: quantize.method:", "one of rtn, gptq, squeezellm"},
      {run_text("quantize: {sparsity: some}\n"), "5:22: quantize.sparsity:", "not a number"},
      {run_text("quantize: {sparsity: [0.1]}\n"), "5:22: quantize.sparsity: the value is a list",
       "a number from 0 to 0.5, or a mapping"},
      {run_text("quantize: {target_bits: }\n"), "5:12: quantize.target_bits:", "from 2 to 8"},
      {run_text("sweep: {bits: {a: 3}}\n"), "5:15: sweep.bits:", "a list of integers"},
      {run_text("sweep: {points: {bits: 3}}\n"), "5:17: sweep.points:", "write lines '- {"},
      {run_text("sweep: {sparsity: [0, x]}\n"), "5:23: sweep.sparsity[1]:", "not a number"},
      {run_text("sweep: {method: [rtn, gtpq]}\n"), "5:23: sweep.method[1]:", "mean 'gptq'?"},
      {run_text("evaluate: {source: {a: b}}\n"), "5:20: evaluate.source:", "list of paths"},
      {run_text("evaluate: {source: [a, [b]]}\n"), "5:24: evaluate.source[1]:", "a path"},
      {run_text("evaluate: {source: [a, '']}\n"), "5:24: evaluate.source[1]:", "is empty"},
      {run_text("evaluate: {source: \"a\\0b\"}\n"), "5:20: evaluate.source:", "control character"},
      {run_text("evaluate: {source: ~/text}\n"), "5:20: evaluate.source:", "not expanded"},
      {run_text("quantize: [bits, 4]\n"), "5:11: quantize: the value is a list", "a mapping"},
      {run_text("quantize:\n"), "5:1: quantize: the value is empty", "a mapping"},
      {run_text("quantize: {rules: {match: a}}\n"), "5:19: quantize.rules:", "a list"},
      {run_text("quantize: {rules: [a]}\n"), "5:20: quantize.rules[0]: the value is 'a'",
       "a mapping"},
  });
}

TEST(Mistakes, Ranges) {
  expect_messages({
      {run_text("quantize: {bits: 9}\n"), "5:18: quantize.bits: '9' is out of range", "2 to 8"},
      {run_text("quantize: {bits: 1}\n"), "5:18: quantize.bits:", "out of range"},
      {run_text("quantize: {bits: -4}\n"), "5:18: quantize.bits:", "out of range"},
      {run_text("quantize: {group_size: 100}\n"), "5:24: quantize.group_size: 100",
       "multiple of 32 from 32 to 1024, or -1"},
      {run_text("quantize: {group_size: 0}\n"), "5:24: quantize.group_size:", "out of range"},
      {run_text("quantize: {group_size: 2048}\n"), "5:24: quantize.group_size:", "out of range"},
      {run_text("quantize: {sparsity: -0.1}\n"), "5:22: quantize.sparsity:", "out of range"},
      {run_text("quantize: {sparsity: 0.51}\n"), "5:22: quantize.sparsity:", "from 0 to 0.5"},
      {run_text("quantize: {sparsity: {sensitive: 0.3, magnitude: 0.3}}\n"),
       "5:22: quantize.sparsity:", "are 0.6 together; expected at most 0.5"},
      {run_text("quantize: {sparsity: {magnitude: 0.6}}\n"),
       "5:34: quantize.sparsity.magnitude:", "out of range"},
      {run_text("quantize: {target_bits: 1.99}\n"), "5:25: quantize.target_bits:", "out of range"},
      {run_text("quantize: {target_bits: 8.01}\n"), "5:25: quantize.target_bits:", "from 2 to 8"},
      {run_text("sweep: {bits: [4, 9]}\n"), "5:19: sweep.bits[1]:", "out of range"},
      {run_text("sweep: {group_size: 100}\n"), "5:21: sweep.group_size:", "multiple of 32"},
      {run_text("quantize: {damping: 0}\n"), "5:21: quantize.damping:", "above 0 and up to 1"},
      {run_text("quantize: {damping: 1.5}\n"), "5:21: quantize.damping:", "out of range"},
      {run_text("quantize: {damping: 1e-999}\n"), "5:21: quantize.damping:", "out of range"},
      {run_text("evaluate: {source: a, sequence_length: 1}\n"),
       "5:40: evaluate.sequence_length:", "from 2 to"},
      {run_text("evaluate: {source: a, samples: 99999999999999999999}\n"),
       "5:32: evaluate.samples:", "out of range"},
  });
}

TEST(Mistakes, Quantities) {
  const auto run = [](const std::string& key) {
    return "model: {path: m}\ncalibration: {source: c}\noutput: {path: o}\nrun: {directory: r, " +
           key + "}\n";
  };
  const auto shard = [](const std::string& value) {
    return "model: {path: m}\ncalibration: {source: c}\nrun: {directory: r}\n"
           "output: {path: o, shard_size: " +
           value + "}\n";
  };
  expect_messages({
      {shard("5gb"), "4:31: output.shard_size: '5gb'", "GB"},
      {shard("1.5GB"), "4:31: output.shard_size:", "whole number"},
      {shard("12"), "4:31: output.shard_size:", "out of range"},
      {shard("-5GB"), "4:31: output.shard_size:", "not a number of bytes"},
      {shard("9999999999999TB"), "4:31: output.shard_size:", "out of range"},
      {run("watchdog: 5 minutes"), "4:31: run.watchdog:", "(s, min, h)"},
      {run("watchdog: 0s"), "4:31: run.watchdog:", "out of range"},
      {run("deadline: ''"), "4:31: run.deadline:", "not a number of seconds"},
      {run("threads: -1"), "4:30: run.threads:", "from 0 to 4096"},
      {run("resume: maybe"), "4:29: run.resume:", "one of auto, required, never"},
      {run("device: gpu"), "4:29: run.device:", "one of auto, cpu, cuda"},
      {run("activation_type: fp16"),
       "4:38: run.activation_type:", "one of auto, float64, float32, bfloat16"},
      {run("device: cpu, activation_type: float16"),
       "4:51: run.activation_type:", "does not compute in 16 bits"},
  });
}

TEST(Mistakes, MissingKeys) {
  expect_messages({
      {"", "1:1: the run file is empty", "configs/"},
      {"# nothing\n---\n", "1:1: the run file is empty", "configs/"},
      {"bits\n", "1:1: the run file is 'bits'", "sections"},
      {"- a\n- b\n", "1:1: the run file is a list", "sections"},
      {"output: {path: o}\nrun: {directory: r}\n", "1:1: model.path: missing", "{path: ...}"},
      {"model: {path: m}\nrun: {directory: r}\n", "1:1: output.path: missing", "a path"},
      {"model: {path: m}\noutput: {path: o}\n", "1:1: run.directory: missing", "a path"},
      {"model: {path: m}\noutput: {format: gptq}\nrun: {directory: r}\n",
       "2:9: output.path: missing", "add 'path:' to 'output'"},
      {"model: {path: m}\noutput: {path: o}\nrun: {directory: r}\n",
       "1:1: calibration.source: missing", "choose method rtn"},
      {"model: {path: m}\noutput: {path: o}\nrun: {directory: r}\ncalibration: {samples: 8}\n",
       "4:14: calibration.source: missing", "add 'source:'"},
      {"model: {path: m}\noutput: {path: o}\nrun: {directory: r}\ncalibration: {source: []}\n",
       "4:23: calibration.source: missing", "needs calibration text"},
      {run_text("evaluate: {samples: 3}\n"), "5:11: evaluate.source: missing", "add 'source:'"},
      {run_text("quantize: {rules: [{bits: 3}]}\n"), "5:20: quantize.rules[0].match: missing",
       "regular expression"},
  });
}

TEST(Mistakes, ValuesThatDoNotFitTogether) {
  expect_messages({
      {run_text("quantize: {method: rtn, act_order: full}\n"),
       "5:36: quantize.act_order:", "no effect on quantize.method rtn"},
      {run_text("quantize: {method: rtn, damping: 0.1}\n"),
       "5:34: quantize.damping:", "choose method gptq"},
      {run_text("quantize: {method: rtn, propagation: original}\n"),
       "5:38: quantize.propagation:", "no effect"},
      {run_text("quantize: {method: rtn, true_sequential: false}\n"),
       "5:42: quantize.true_sequential:", "no effect"},
      {run_text("quantize: {propagation: original, true_sequential: true}\n"),
       "5:52: quantize.true_sequential:", "original weights only"},
      {run_text("quantize: {bits: 5}\n"), "5:18: quantize.bits:", "dequantized, which allows"},
      {run_text("quantize: {bits: 7}\n"), "5:18: quantize.bits:", "cannot pack 7 bits"},
      {run_text("quantize:\n  rules:\n    - {match: a, bits: 4}\n    - {match: b, bits: 6}\n"),
       "8:24: quantize.rules[1].bits:", "2, 3, 4 or 8"},
      {run_text("quantize: {rules: [{match: a, skip: true, bits: 4}]}\n"),
       "5:20: quantize.rules[0]:", "skip alone"},
      {run_text("quantize: {rules: [{match: a}]}\n"),
       "5:20: quantize.rules[0]:", "changes nothing"},
      {"model: {path: m}\ncalibration: {source: c}\noutput: {path: ./x/../m/}\n"
       "run: {directory: r}\n",
       "3:16: output.path:", "the same folder as model.path"},
      {"model: {path: m}\ncalibration: {source: c}\noutput: {path: o}\nrun: {directory: o/}\n",
       "4:18: run.directory:", "the same folder as output.path"},
      {"model: {path: m}\ncalibration: {source: c}\noutput: {path: o}\n"
       "run: {directory: r, statistics_directory: ./o}\n",
       "4:43: run.statistics_directory:", "the same folder as output.path"},
  });
}

TEST(Mistakes, BadExpressions) {
  const auto rule = [](const std::string& match) {
    return run_text("quantize: {rules: [{match: '" + match + "', bits: 4}]}\n");
  };
  const std::string at = "5:28: quantize.rules[0].match:";
  expect_messages({
      {rule("(layers"), at, "not a regular expression"},
      {rule("[a-"), at, "not a regular expression"},
      {rule("*a"), at, "not a regular expression"},
      {rule("(a*)*b"), at, "a repeated group that itself repeats"},
      {rule("(a|a)+b"), at, "a repeated group"},
      {rule("((a?)b){2,}"), at, "a repeated group"},
      {rule("a*a*a*a*a*a*a*a*a*b"), at, "more than 6 repetitions"},
      {rule(std::string(600, 'a')), at, "600 bytes, more than 512"},
      {rule("a{99999}{99999}"), at, "not a regular expression"},
      {rule(""), at, "the text is empty"},
  });
}

TEST(Mistakes, Overrides) {
  const auto message = [](const std::string& text) { return complaint(run_text(), {text}); };
  EXPECT_THAT(message("quantize.bits=9"),
              StartsWith("--set 'quantize.bits=9':1:15: quantize.bits: '9' is out of range"));
  EXPECT_THAT(message("quantize.bist=4"),
              AllOf(StartsWith("--set 'quantize.bist=4':1:10: quantize.bist: unknown key"),
                    EndsWith("did you mean 'bits'?")));
  EXPECT_THAT(message("quantize.bits"), HasSubstr("not an override; expected key.path=value"));
  EXPECT_THAT(message("=4"), HasSubstr("not an override"));
  EXPECT_THAT(message("quantize..bits=4"), HasSubstr("not an override"));
  EXPECT_THAT(message("quantize.bits.x=4"), HasSubstr("quantize.bits.x: unknown key"));
  EXPECT_THAT(message("quantize.bits="), HasSubstr("quantize.bits: empty is not an integer"));
  EXPECT_THAT(message("quantize.rules=[{match: a"), HasSubstr("a bracket that is not closed"));
  EXPECT_THAT(message("quantize=4"), HasSubstr(":1:10: quantize: the value is '4'"));
  EXPECT_THAT(message("quantize.rules=[{match: a, bits: 6}]"),
              HasSubstr(":1:34: quantize.rules[0].bits: output.format gptq cannot pack 6 bits"));
  EXPECT_THAT(complaint("quantize: 4\n" + run_text(), {"quantize.bits=3"}),
              StartsWith("run.yaml:1:11: quantize: the value is '4'"));
}

}  // namespace
}  // namespace quern::test
