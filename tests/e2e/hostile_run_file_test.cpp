#include <gtest/gtest.h>

#include "tests/e2e/hostile_case.h"
#include "tests/e2e/run_folder.h"

namespace quern::test {
namespace {

using Spoil = std::function<void(HostileFolder&)>;

Spoil replaced(const std::string& from, const std::string& to) {
  return [from, to](HostileFolder& folder) { folder.edit_run_file(from, to); };
}

Spoil whole(const std::string& text) {
  return [text](HostileFolder& folder) { folder.write("run.yaml", text); };
}

Spoil set(const std::string& key_value) {
  return [key_value](HostileFolder& folder) { folder.set(key_value); };
}

/// "a: &a [x, x]", "b: &b [*a, *a]" and so on: 2^30 values if it were expanded.
std::string alias_bomb() {
  std::string text = "a0: &a0 [x, x]\n";
  for (int i = 1; i < 30; ++i) {
    const std::string before = "*a" + std::to_string(i - 1);
    text += "a" + std::to_string(i) + ": &a" + std::to_string(i);
    text += " [" + before + ", " + before + "]\n";
  }
  return text;
}

std::string nested(int depth) {
  std::string text = "model: ";
  for (int i = 0; i < depth; ++i) text += "{a: ";
  return text + "1" + std::string(static_cast<std::size_t>(depth), '}') + "\n";
}

const std::vector<HostileCase> kRows = {
    {"Typo",
     64,
     {"run.yaml:8:3: quantize.bitz: unknown key", "did you mean 'bits'?"},
     replaced("bits: 4", "bitz: 4")},
    {"WrongType",
     64,
     {"run.yaml:8:9: quantize.bits: 'four' is not an integer", "2 to 8"},
     replaced("bits: 4", "bits: four")},
    {"OutOfRange",
     64,
     {"run.yaml:8:9: quantize.bits: '9' is out of range", "from 2 to 8"},
     replaced("bits: 4", "bits: 9")},
    {"GroupNotAMultiple",
     64,
     {"run.yaml:9:15: quantize.group_size: 100", "multiple of 32"},
     replaced("group_size: 64", "group_size: 100")},
    {"Duplicate",
     64,
     {"run.yaml:9:3: quantize.bits: set twice, first at line 8"},
     replaced("group_size: 64", "bits: 3")},
    {"Anchor",
     64,
     {"run.yaml:8:", "a YAML anchor ('&name') is not allowed"},
     replaced("bits: 4", "bits: &b 4")},
    {"AliasBomb", 64, {"run.yaml:1:", "a YAML anchor"}, whole(alias_bomb())},
    {"MergeKey",
     64,
     {"run.yaml:8:", "merge key ('<<') is not allowed"},
     replaced("bits: 4", "<<: {bits: 4}")},
    {"Tag", 64, {"run.yaml:8:", "a YAML tag"}, replaced("bits: 4", "bits: !!int 4")},
    {"Tab",
     64,
     {"run.yaml:8:1: a tab in the indentation; expected spaces"},
     replaced("  bits: 4", "\tbits: 4")},
    {"Empty", 64, {"run.yaml:1:1: ", "expected"}, whole("")},
    {"OnlyAList",
     64,
     {"run.yaml:1:1: the run file is a list; expected sections"},
     whole("- a\n- b\n")},
    {"UnknownSection",
     64,
     {"run.yaml:6:1: quantise: unknown", "did you mean 'quantize'?"},
     replaced("quantize:", "quantise:")},
    {"TwoDocuments",
     64,
     {"run.yaml:12:", "a second YAML document starts here"},
     replaced("threads: 1}\n", "threads: 1}\n---\nmodel: {}\n")},
    {"DepthBomb", 64, {"run.yaml:1:", "nested more than 32 deep"}, whole(nested(1000))},
    {"BracketBomb",
     64,
     {"run.yaml:1:", "a bracket that is not closed"},
     whole(std::string(200'000, '['))},
    {"BracketOpen", 64, {"run.yaml:", "expected"}, replaced("threads: 1}", "threads: 1")},
    {"Binary",
     64,
     {"run.yaml:1:1: ", "control character"},
     whole(std::string("\x7f"
                       "ELF\1\2",
                       6))},
    {"NotUtf8", 64, {"run.yaml:1:9: byte 0xff is not UTF-8"}, whole("model: {\xff: 1}\n")},
    {"Huge",
     64,
     {"run.yaml:1:1: the text has 2000000 bytes; expected at most 1048576"},
     whole(std::string(2'000'000, '#'))},
    {"RequiredKeyMissing",
     64,
     {"run.yaml:1:8: model.path: missing; expected a path"},
     replaced("model: {path:", "model: {ignore_fields:")},
    {"RequiredSectionMissing",
     64,
     {"run.yaml:", "output", "missing"},
     replaced("output: {", "evaluate: {source: [], field: text} #")},
    {"CalibrationMissing",
     64,
     {"calibration.source: missing", "gptq needs calibration text"},
     [](HostileFolder& folder) {
       folder.edit_run_file("calibration:\n  source:", "evaluate:\n  source:");
     }},
    {"BadExpression",
     64,
     {"run.yaml:9:", "quantize.rules[0].match", "not a regular expression"},
     replaced("group_size: 64", "rules: [{match: '(', bits: 8}]")},
    {"SlowExpression",
     64,
     {"quantize.rules[0].match", "can take forever to match"},
     replaced("group_size: 64", "rules: [{match: '(a*)*b', bits: 8}]")},
    {"RuleChangesNothing",
     64,
     {"quantize.rules[0]: the rule changes nothing; expected bits"},
     replaced("group_size: 64", "rules: [{match: '.*'}]")},
    {"FiveBitsPacked",
     64,
     {"run.yaml:8:9: quantize.bits: output.format gptq cannot pack 5 bits", "2, 3, 4 or 8"},
     replaced("bits: 4", "bits: 5")},
    {"SameFolders",
     64,
     {"run.directory: the same folder as output.path"},
     [](HostileFolder& folder) { folder.set("run.directory=" + folder.output().string()); }},
    {"SetWithoutValue",
     64,
     {"--set 'quantize.bits'", "not an override; expected key.path=value"},
     set("quantize.bits")},
    {"SetUnknownKey",
     64,
     {"--set 'quantize.bit=3'", "unknown key", "did you mean 'bits'?"},
     set("quantize.bit=3")},
    {"SetWrongType",
     64,
     {"--set 'quantize.bits=three'", "is not an integer"},
     set("quantize.bits=three")},
    {"SetSection", 64, {"--set 'quantize=4'", "expected a mapping"}, set("quantize=4")},
    {"SetBadYaml", 64, {"--set 'quantize.bits=[3'"}, set("quantize.bits=[3")},
    {"HeadIsTheEmbedding",
     64,
     {"quantize.lm_head", "tie_word_embeddings"},
     [](HostileFolder& folder) {
       folder.edit_config([](auto& config) { config["tie_word_embeddings"] = true; });
       folder.set("quantize.lm_head=true");
     }},
    {"ResumeRequired",
     64,
     {"run.resume: 'required', but", "holds no earlier run"},
     set("run.resume=required")},
};

/// The command line, with words in place of the good ones.
Spoil words(const Command& command) {
  return [command](HostileFolder& folder) { folder.command = command; };
}

Spoil run_file_at(const std::string& path) {
  return [path](HostileFolder& folder) {
    folder.command = {"quantize", path.starts_with('/') ? path : (folder.path() / path).string()};
  };
}

const std::vector<HostileCase> kCommandRows = {
    {"NoSubcommand", 64, {"subcommand is required", "quern --help"}, words({})},
    {"UnknownSubcommand",
     64,
     {"'quantise' is not a subcommand", "quern --help"},
     words({"quantise", "run.yaml"})},
    {"NoRunFile", 64, {"RUN_FILE is required", "quern quantize --help"}, words({"quantize"})},
    {"UnknownOption",
     64,
     {"--bits", "quern quantize --help"},
     [](HostileFolder& folder) { folder.command.emplace_back("--bits=3"); }},
    {"OptionWithoutValue",
     64,
     {"--set", "quern quantize --help"},
     [](HostileFolder& folder) { folder.command.emplace_back("--set"); }},
    {"RanksOutOfRange",
     64,
     {"--ranks", "quern plan --help"},
     [](HostileFolder& folder) {
       folder.command.front() = "plan";
       folder.command = folder.command + Command{"--ranks", "0"};
     }},
    {"WhatUnknown",
     64,
     {"--what", "quern evaluate --help"},
     [](HostileFolder& folder) {
       folder.command.front() = "evaluate";
       folder.command = folder.command + Command{"--what", "everything"};
     }},
    {"RunFileMissing", 64, {"gone.yaml: No such file"}, run_file_at("gone.yaml")},
    {"RunFileIsADirectory", 64, {"run file", "model", "directory"}, run_file_at("model")},
    {"RunFileIsEndless", 64, {"/dev/zero", "regular file"}, run_file_at("/dev/zero")},
    {"ModelMissing",
     65,
     {"/gone: no such folder; expected a Hugging Face model folder"},
     [](HostileFolder& folder) { folder.set("model.path=" + (folder.path() / "gone").string()); }},
    {"ModelIsAFile",
     65,
     {"text.txt: no such folder; expected"},
     [](HostileFolder& folder) {
       folder.set("model.path=" + (folder.path() / "text.txt").string());
     }},
    {"StatusOfNothing",
     65,
     {"/nothing: no run here"},
     [](HostileFolder& folder) {
       folder.command = {"status", (folder.path() / "nothing").string()};
     }},
    {"EvaluateWithoutText",
     64,
     {"evaluate.source: is missing; expected"},
     [](HostileFolder& folder) {
       folder.command.front() = "evaluate";
       folder.command = folder.command + Command{"--what", "original"};
     }},
    {"EvaluateWithoutARun",
     64,
     {"run.directory: ", "holds no run"},
     [](HostileFolder& folder) {
       folder.command.front() = "evaluate";
       folder.command = folder.command + Command{"--what", "run"};
     }},
    {"VerifyWithoutARun",
     64,
     {"run.directory: ", "holds no run; run quantize first"},
     [](HostileFolder& folder) { folder.command.front() = "verify"; }},
    {"VerifyAnyFolder",
     65,
     {"SHA256SUMS"},
     [](HostileFolder& folder) {
       folder.command = {"verify", (folder.path() / "model").string()};
     }},
};

class HostileRunFile : public testing::TestWithParam<HostileCase> {};

TEST_P(HostileRunFile, IsAnswered) {
  check_hostile_case(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Rows, HostileRunFile, testing::ValuesIn(kRows), name_of_case);

class HostileCommand : public testing::TestWithParam<HostileCase> {};

TEST_P(HostileCommand, IsAnswered) {
  check_hostile_case(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Rows, HostileCommand, testing::ValuesIn(kCommandRows), name_of_case);

// Without it the rows would prove nothing.
TEST(HostileFolder, IsGoodUntilItIsSpoilt) {
  const HostileFolder folder;
  const ProcessResult result = run_process(quern(1, folder.command));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(std::filesystem::exists(folder.output() / "SHA256SUMS"));
}

}  // namespace
}  // namespace quern::test
