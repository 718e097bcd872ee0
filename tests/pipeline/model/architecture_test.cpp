#include "pipeline/model/architecture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "kernels/core/error.h"
#include "pipeline/model/model_graph.h"

namespace quern::test {
namespace {

/// No two numbers alike, every optional tensor present, so that a mix-up shows.
ModelGeometry distinct_geometry() {
  ModelGeometry geometry;
  geometry.hidden = 96;
  geometry.intermediate = 200;
  geometry.layers = 3;
  geometry.heads = 6;
  geometry.kv_heads = 2;
  geometry.head_dim = 20;
  geometry.vocab = 1000;
  geometry.qkv_bias = geometry.output_bias = geometry.mlp_bias = true;
  return geometry;
}

bool is_present(const TensorRow& row, const ModelGeometry& geometry) {
  return row.present == nullptr || row.present(geometry);
}

const TensorRow* weight_of(const Architecture& architecture, Role role) {
  for (const TensorRow& row : architecture.layer_tensors) {
    if (row.role == role && row.part == Part::weight) return &row;
  }
  return nullptr;
}

class EveryArchitecture : public testing::TestWithParam<std::size_t> {
 protected:
  const Architecture& architecture() const { return architectures()[GetParam()]; }
};

TEST_P(EveryArchitecture, NamesAndRolesAreUnique) {
  std::set<std::string_view> names;
  std::set<std::pair<Role, Part>> parts;
  for (const auto& rows : {architecture().layer_tensors, architecture().model_tensors}) {
    for (const TensorRow& row : rows) {
      EXPECT_TRUE(names.insert(row.name).second) << row.name;
      EXPECT_TRUE(parts.emplace(row.role, row.part).second) << row.name;
      EXPECT_TRUE(row.name.ends_with(row.part == Part::bias ? ".bias" : ".weight")) << row.name;
    }
  }
  EXPECT_THAT(std::string(architecture().layer_prefix), testing::HasSubstr("{}"));
}

TEST_P(EveryArchitecture, ShapesArePositiveAndBiasesFitTheirWeights) {
  const ModelGeometry geometry = distinct_geometry();
  for (const auto& rows : {architecture().layer_tensors, architecture().model_tensors}) {
    for (const TensorRow& row : rows) {
      EXPECT_GT(row.rows(geometry), 0) << row.name;
      if (row.columns != nullptr) {
        EXPECT_GT(row.columns(geometry), 0) << row.name;
      }
      if (row.part != Part::bias) continue;
      const TensorRow* weight = weight_of(architecture(), row.role);
      ASSERT_NE(weight, nullptr) << row.name;
      EXPECT_EQ(row.columns, nullptr) << row.name;
      EXPECT_EQ(row.rows(geometry), weight->rows(geometry)) << row.name;
    }
  }
}

TEST_P(EveryArchitecture, InputsFeedTheirReaders) {
  const ModelGeometry geometry = distinct_geometry();
  std::set<Role> readers;
  int stage = 0;
  for (const InputRow& input : architecture().inputs) {
    EXPECT_TRUE(input.stage == stage || input.stage == stage + 1) << input.name;
    stage = input.stage;
    EXPECT_FALSE(input.readers.empty()) << input.name;
    for (const Role reader : input.readers) {
      EXPECT_TRUE(readers.insert(reader).second) << input.name;
      const TensorRow* weight = weight_of(architecture(), reader);
      ASSERT_NE(weight, nullptr) << input.name;
      ASSERT_NE(weight->columns, nullptr) << weight->name;
      EXPECT_EQ(weight->columns(geometry), input.features(geometry)) << weight->name;
    }
  }
  EXPECT_EQ(architecture().inputs.front().stage, 0);
  for (const TensorRow& row : architecture().layer_tensors) {
    const bool linear = row.columns != nullptr;
    EXPECT_EQ(readers.contains(row.role), linear || row.part == Part::bias) << row.name;
  }
}

TEST_P(EveryArchitecture, EndsAreComplete) {
  ModelGeometry geometry = distinct_geometry();
  for (const bool tied : {false, true}) {
    geometry.tied_head = tied;
    std::set<Role> roles;
    for (const TensorRow& row : architecture().model_tensors) {
      if (is_present(row, geometry)) roles.insert(row.role);
    }
    EXPECT_TRUE(roles.contains(Role::embedding));
    EXPECT_TRUE(roles.contains(Role::final_norm));
    EXPECT_EQ(roles.contains(Role::head), !tied);
  }
}

INSTANTIATE_TEST_SUITE_P(Table, EveryArchitecture,
                         testing::Range(std::size_t{0}, architectures().size()),
                         [](const auto& model) {
                           return std::string(architectures()[model.param].model_type);
                         });

TEST(Architectures, TypesAreUniqueAndFound) {
  std::set<std::string_view> types;
  for (const Architecture& architecture : architectures()) {
    EXPECT_TRUE(types.insert(architecture.model_type).second);
    EXPECT_EQ(&find_architecture(architecture.model_type, "config.json"), &architecture);
  }
}

ModelGeometry geometry_of(const char* model_type, nlohmann::json fields) {
  fields.update({{"model_type", model_type},
                 {"hidden_size", 8},
                 {"intermediate_size", 8},
                 {"num_hidden_layers", 30},
                 {"num_attention_heads", 2},
                 {"vocab_size", 8},
                 {"max_position_embeddings", 9000}});
  return read_geometry(fields, find_architecture(model_type, "").defaults, {}, "config.json");
}

TEST(Architectures, WhatASilentConfigurationMeansIsTheModelTypesOwn) {
  EXPECT_THAT(geometry_of("llama", {}).window, testing::Each(0));
  EXPECT_EQ(geometry_of("llama", {}).rope.theta, 1e4);
  EXPECT_EQ(geometry_of("Yi", {}).rope.theta, 5e6);
  EXPECT_THAT(geometry_of("mistral", {}).window, testing::Each(4096));
  EXPECT_THAT(geometry_of("mistral", {{"sliding_window", nullptr}}).window, testing::Each(0));
  EXPECT_THAT(geometry_of("qwen2", {}).window, testing::Each(0));
  const auto sliding = geometry_of("qwen2", {{"use_sliding_window", true}}).window;
  EXPECT_EQ(std::ranges::count(sliding, 0), 28);
  EXPECT_EQ(sliding.back(), 4096);
  EXPECT_TRUE(geometry_of("qwen2", {}).qkv_bias);
  EXPECT_FALSE(geometry_of("llama", {}).qkv_bias);
}

TEST(Architectures, AnUnknownTypeIsNamedWithWhatIsSupported) {
  try {
    find_architecture("mamba", "m/config.json");
    FAIL();
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(),
                testing::AllOf(testing::HasSubstr("m/config.json"), testing::HasSubstr("'mamba'"),
                               testing::HasSubstr("'qwen2'")));
  }
}

}  // namespace
}  // namespace quern::test
