#include <gtest/gtest.h>

#include <cstring>

#include "tests/e2e/hostile_case.h"
#include "tests/e2e/run_folder.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;

using Json = HostileFolder::Json;

const std::string kShard = "model-00001-of-00001.safetensors";
const std::string kIndex = "model/model.safetensors.index.json";
const std::string kTensor = "model.layers.1.mlp.up_proj.weight";

using Spoil = std::function<void(HostileFolder&)>;

/// A sharded model whose weight_map says something else of one tensor.
Spoil indexed(const std::string& tensor, const Json& shard) {
  return [tensor, shard](HostileFolder& folder) {
    folder.shard();
    folder.edit_json(kIndex, [&](Json& index) { index["weight_map"][tensor] = shard; });
  };
}

Spoil index_text(const std::string& text) {
  return [text](HostileFolder& folder) {
    folder.shard();
    folder.write(kIndex, text);
  };
}

/// The same tensor in a second shard.
void repeat_tensor(HostileFolder& folder) {
  folder.shard();
  folder.write("model/second.safetensors",
               tensor_file_bytes(R"({"model.norm.weight":{"dtype":"BF16","shape":[1],)"
                                 R"("data_offsets":[0,2]}})",
                                 "ab"));
  folder.edit_json(kIndex,
                   [](Json& index) { index["weight_map"]["extra"] = "second.safetensors"; });
}

const std::vector<HostileCase> kIndexRows = {
    {"NoWeights",
     65,
     {"/model: found neither model.safetensors nor", "expected"},
     [](HostileFolder& folder) { folder.erase("model/model.safetensors"); }},
    {"ShardMissing",
     65,
     {"/model: shards named by", "are missing: gone.safetensors (1 tensors)"},
     indexed("model.norm.weight", "gone.safetensors")},
    {"ShardOutsideTheFolder",
     65,
     {"index.json: weight_map: tensor \"model.norm.weight\"", "expected the plain name of a file"},
     indexed("model.norm.weight", "../../secret.safetensors")},
    {"ShardNameNotText",
     65,
     {"index.json: weight_map: tensor", "is in 7, expected a file name"},
     indexed("model.norm.weight", 7)},
    {"TensorNotInItsShard",
     65,
     {"index.json: tensor \"ghost\" is not in", kShard},
     indexed("ghost", kShard)},
    {"TensorNotInTheIndex",
     65,
     {"index.json: tensor \"model.norm.weight\"", "not in weight_map"},
     [](HostileFolder& folder) {
       folder.shard();
       folder.edit_json(kIndex,
                        [](Json& index) { index["weight_map"].erase("model.norm.weight"); });
     }},
    {"TensorInTwoShards",
     65,
     {"model.norm.weight", "is in two shards", "expected one"},
     repeat_tensor},
    {"IndexBadJson", 65, {"index.json:1:", "invalid JSON"}, index_text("{\"weight_map\": {,")},
    {"IndexMapNotAnObject",
     65,
     {"index.json: expected an object with the object weight_map"},
     index_text(R"({"weight_map": ["a"]})")},
    {"IndexEmptyMap", 65, {"index.json: weight_map is empty"}, index_text(R"({"weight_map": {}})")},
    {"IndexEmptyFile", 65, {"index.json:1:1: invalid JSON"}, index_text("")},
};

/// A model with one tensor renamed, reshaped or changed in type.
Spoil entry_edit(const std::function<void(Json&)>& edit) {
  return [edit](HostileFolder& folder) { folder.edit_header(edit); };
}

Spoil poisoned(const std::string& tensor, std::uint16_t bf16) {
  return [tensor, bf16](HostileFolder& folder) {
    folder.edit_tensors([&](TensorFile& file) {
      std::memcpy(file.data.data() + file.begin_of(tensor) + 2 * 77, &bf16, sizeof(bf16));
    });
  };
}

void rename_tensor(Json& header, const std::string& to) {
  header[to] = header.at(kTensor);
  header.erase(kTensor);
}

const std::vector<HostileCase> kTensorRows = {
    {"Missing",
     65,
     {"/model: the model has no tensor \"" + kTensor + "\"", "config.json"},
     entry_edit([](Json& header) { rename_tensor(header, "elsewhere"); })},
    {"WrongShape",
     65,
     {"model.safetensors: tensor '" + kTensor + "' has shape [192, 512]",
      "config.json calls for [512, 192]"},
     entry_edit([](Json& header) {
       header[kTensor]["shape"] = {192, 512};
     })},
    {"WrongType",
     65,
     {"model.safetensors: tensor '" + kTensor + "' has type I16; expected F32"},
     entry_edit([](Json& header) { header[kTensor]["dtype"] = "I16"; })},
    {"IntegerOfHalfTheColumns",
     65,
     {"tensor '" + kTensor + "' has shape [512, 96]"},
     entry_edit([](Json& header) {
       header[kTensor]["dtype"] = "I32";
       header[kTensor]["shape"] = {512, 96};
     })},
    {"UnknownExtra",
     65,
     {"model.layers.0.self_attn.q_norm.weight", "would be lost"},
     [](HostileFolder& folder) {
       folder.edit_tensors([](TensorFile& file) {
         const std::size_t end = file.data.size();
         file.header["model.layers.0.self_attn.q_norm.weight"] = {
             {"dtype", "BF16"}, {"shape", {64}}, {"data_offsets", {end, end + 128}}};
         file.data.append(128, '\0');
       });
     }},
    {"NotANumber",
     65,
     {"tensor '" + kTensor + "': 1 of 98304 values are infinite or NaN"},
     poisoned(kTensor, 0x7FC0)},
    {"Infinite",
     65,
     {"tensor 'model.layers.3.self_attn.o_proj.weight': 1 of 36864", "finite"},
     poisoned("model.layers.3.self_attn.o_proj.weight", 0xFF80)},
    {"InfiniteEmbedding",
     65,
     {"tensor 'model.embed_tokens.weight': 1 of", "finite"},
     poisoned("model.embed_tokens.weight", 0x7F80)},
    {"NotANumberInTheNorm",
     65,
     {"tensor 'model.layers.0.input_layernorm.weight': 1 of 192"},
     poisoned("model.layers.0.input_layernorm.weight", 0x7FC0)},
    {"FinalNormNotANumber",
     65,
     {"tensor 'model.norm.weight': 1 of 192", "NaN"},
     poisoned("model.norm.weight", 0x7FC0)},
};

class HostileIndex : public testing::TestWithParam<HostileCase> {};

TEST_P(HostileIndex, IsAnswered) {
  check_hostile_case(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Rows, HostileIndex, testing::ValuesIn(kIndexRows), name_of_case);

class HostileTensor : public testing::TestWithParam<HostileCase> {};

TEST_P(HostileTensor, IsAnswered) {
  check_hostile_case(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Rows, HostileTensor, testing::ValuesIn(kTensorRows), name_of_case);

TEST(HostileTensorLate, LeavesTheLayersBeforeCommitted) {
  HostileFolder folder;
  poisoned("model.layers.3.mlp.down_proj.weight", 0x7FC0)(folder);
  const ProcessResult result = run_process(quern(1, folder.command));
  EXPECT_EQ(result.exit_code, 65);
  EXPECT_EQ(bundle_files(folder.directory()).size(), 3U * 4U);
  EXPECT_FALSE(fs::exists(folder.output()));
}

}  // namespace
}  // namespace quern::test
