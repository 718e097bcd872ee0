#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>

#include "tests/e2e/hostile_case.h"
#include "tests/e2e/run_folder.h"

namespace quern::test {
namespace {

using Json = HostileFolder::Json;
using Spoil = std::function<void(HostileFolder&)>;

const std::string kTokenizer = "model/tokenizer.json";

Spoil tokenizer(const std::function<void(Json&)>& edit) {
  return [edit](HostileFolder& folder) { folder.edit_json(kTokenizer, edit); };
}

const std::vector<HostileCase> kTokenizerRows = {
    {"Missing",
     65,
     {"/model: there is neither tokenizer.json nor vocab.json"},
     [](HostileFolder& folder) { folder.erase(kTokenizer); }},
    {"OnlySentencePiece",
     65,
     {"/model: there is neither tokenizer.json", "convert tokenizer.model"},
     [](HostileFolder& folder) {
       folder.erase(kTokenizer);
       folder.write("model/tokenizer.model", "binary");
     }},
    {"BadJson",
     65,
     {"tokenizer.json:1:11: invalid JSON"},
     [](HostileFolder& folder) { folder.write(kTokenizer, R"({"model": })"); }},
    {"Unigram",
     65,
     {"tokenizer.json: model.type: the model \"Unigram\" is not supported", "expected BPE"},
     tokenizer([](Json& json) { json["model"]["type"] = "Unigram"; })},
    {"UnknownNormalizer",
     65,
     {"tokenizer.json: normalizer: the normalizer \"Rot13\" is not"},
     tokenizer([](Json& json) {
       json["normalizer"] = {{"type", "Rot13"}};
     })},
    {"UnknownField",
     65,
     {"tokenizer.json: ", "\"surprise\" is not known"},
     tokenizer([](Json& json) { json["model"]["surprise"] = true; })},
    {"SameIdTwice",
     65,
     {"tokenizer.json: model.vocab: ", "have the same id 300"},
     tokenizer([](Json& json) {
       for (auto& id : json["model"]["vocab"]) {
         if (id == 301) id = 300;
       }
     })},
    {"VocabularyLargerThanTheModel",
     65,
     {"the tokenizer gives the id", "belong together"},
     tokenizer([](Json& json) {
       for (auto& id : json["model"]["vocab"]) id = 9000 + id.get<int>();
       json["added_tokens"] = Json::array();
       json["post_processor"] = nullptr;
     })},
};

/// The calibration source is a file of this name and these bytes.
Spoil source(const std::string& name, const std::string& contents) {
  return [name, contents](HostileFolder& folder) {
    folder.write(name, contents);
    folder.set("calibration.source=" + (folder.path() / name).string());
  };
}

/// npy version 1.0.
template <typename T>
std::string npy(const std::string& descr, const std::string& shape, std::vector<T> values) {
  std::string header = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + "}";
  header.resize(118 - 1, ' ');
  header += '\n';
  std::string bytes("\x93NUMPY\x01\x00\x76\x00", 10);
  bytes += header;
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  return bytes;
}

std::vector<std::int32_t> ids(std::int32_t last) {
  std::vector<std::int32_t> values(400, 17);
  values.back() = last;
  return values;
}

/// The start of a gzip file, the rest of it noise.
std::string damaged_gzip() {
  std::string bytes("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", 10);
  for (int i = 0; i < 500; ++i) bytes += static_cast<char>(i * 37 + 5);
  return bytes;
}

/// Lines too short for a window are passed over; these are long enough.
std::string line(const std::string& before, const std::string& behind) {
  std::string text;
  while (text.size() < 500) text += "a line of text ";
  return before + text + behind + "\n";
}

const std::string kGoodLine = line("{\"text\": \"", "\"}");

const std::vector<HostileCase> kCalibrationRows = {
    {"EmptyFile",
     65,
     {"calibration.source", "empty.txt", "yields 0 windows", "4 are asked for"},
     source("empty.txt", "")},
    {"MissingFile",
     65,
     {"gone.txt: cannot be opened: no such file"},
     [](HostileFolder& folder) {
       folder.set("calibration.source=" + (folder.path() / "gone.txt").string());
     }},
    {"Directory",
     65,
     {"dir.txt: cannot be opened: no permission or not a file"},
     [](HostileFolder& folder) {
       std::filesystem::create_directory(folder.path() / "dir.txt");
       folder.set("calibration.source=" + (folder.path() / "dir.txt").string());
     }},
    {"UnknownKind",
     65,
     {"text.pdf: unknown kind of text; expected .txt, .jsonl"},
     source("text.pdf", "some text")},
    {"TooShort",
     65,
     {"short.txt", "yields", "4 are asked for", "calibration.samples"},
     source("short.txt", "only a few words")},
    {"NotUtf8", 65, {"latin.txt", "UTF-8"}, source("latin.txt", std::string(5000, '\xe9'))},
    {"BadLine",
     65,
     {"bad.jsonl:3:", "invalid JSON"},
     source("bad.jsonl", kGoodLine + kGoodLine + line("{\"text\": \"", "\"") + kGoodLine)},
    {"LineWithoutTheField",
     65,
     {"lines.jsonl:2", "there is no field \"text\""},
     source("lines.jsonl", kGoodLine + line("{\"content\": \"", "\"}"))},
    {"FieldNotText",
     65,
     {"lines.jsonl:2: text: expected a string, found number"},
     source("lines.jsonl", kGoodLine + line("{\"text\": 5, \"more\": \"", "\"}"))},
    {"LineNotAnObject",
     65,
     {"lines.jsonl:1: expected an object, found array"},
     source("lines.jsonl", line("[\"", "\"]"))},
    {"DamagedGzip",
     65,
     {"text.jsonl.gz: the gzip is damaged or cut off after line"},
     source("text.jsonl.gz", damaged_gzip())},
    {"NotAGzip", 65, {"text.jsonl.gz: is not a gzip file"}, source("text.jsonl.gz", kGoodLine)},
    {"IdsOutOfVocabulary",
     65,
     {"ids.npy: the id 4096 at row 0, column 399", "vocabulary of 4096"},
     source("ids.npy", npy("<i4", "(400,)", ids(4096)))},
    {"IdsNegative",
     65,
     {"ids.npy: the id -1 at row 0, column 399"},
     source("ids.npy", npy("<i4", "(400,)", ids(-1)))},
    {"IdsFloat",
     65,
     {"ids.npy: token ids must be integers, found F32"},
     source("ids.npy", npy("<f4", "(400,)", std::vector<float>(400, 1.0F)))},
    {"IdsTruncated",
     65,
     {"ids.npy: ", "bytes follow the header, expected 9000 elements"},
     source("ids.npy", npy("<i4", "(9000,)", ids(1)))},
    {"IdsShapeOverflows",
     65,
     {"ids.npy: "},
     source("ids.npy", npy("<i4", "(4294967296, 4294967296, 16)", ids(1)))},
    {"IdsObjects",
     65,
     {"ids.npy: descr '|O' is not supported, expected"},
     source("ids.npy", npy("|O", "(400,)", ids(1)))},
    {"WindowsTooNarrow",
     65,
     {"ids.npy", "holds windows of 20 ids", "sequence_length is 32"},
     source("ids.npy", npy("<i4", "(20, 20)", ids(1)))},
    {"NotATensorFile",
     65,
     {"ids.safetensors: the header length is"},
     source("ids.safetensors", std::string(64, 'z'))},
    {"LongerThanTheModelReads",
     64,
     {"calibration.sequence_length is 4096, but the model has 2048"},
     [](HostileFolder& folder) { folder.set("calibration.sequence_length=4096"); }},
    {"EvaluationMissingFile",
     65,
     {"gone.txt: cannot be opened: no such file"},
     [](HostileFolder& folder) {
       folder.set("evaluate.source=" + (folder.path() / "gone.txt").string());
     }},
    {"EvaluationTooShort",
     65,
     {"evaluate.source", "yields 0 windows of 2048 tokens"},
     [](HostileFolder& folder) {
       folder.write("eval.txt", "short");
       folder.set("evaluate.source=" + (folder.path() / "eval.txt").string());
     }},
};

class HostileTokenizer : public testing::TestWithParam<HostileCase> {};

TEST_P(HostileTokenizer, IsAnswered) {
  check_hostile_case(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Rows, HostileTokenizer, testing::ValuesIn(kTokenizerRows), name_of_case);

class HostileText : public testing::TestWithParam<HostileCase> {};

TEST_P(HostileText, IsAnswered) {
  check_hostile_case(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Rows, HostileText, testing::ValuesIn(kCalibrationRows), name_of_case);

}  // namespace
}  // namespace quern::test
