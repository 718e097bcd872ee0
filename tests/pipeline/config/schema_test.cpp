#include "pipeline/config/schema.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "pipeline/config/fields.h"
#include "pipeline/config/resolved.h"
#include "tests/pipeline/config/run_texts.h"
#include "tests/support/paths.h"

namespace quern::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

std::string contents(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  EXPECT_TRUE(stream.good()) << path;
  return {std::istreambuf_iterator<char>(stream), {}};
}

TEST(Schema, TheCopyForEditorsIsCurrent) {
  EXPECT_EQ(contents(source_dir() / "configs/run.schema.json"), run_file_schema().dump(2) + "\n")
      << "configs/run.schema.json must hold run_file_schema().dump(2) and a line end";
}

TEST(Schema, DescribesKeysByHandWrittenExamples) {
  const json schema = run_file_schema();
  EXPECT_EQ(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
  EXPECT_EQ(schema["required"], json({"model", "output", "run"}));
  EXPECT_EQ(schema["additionalProperties"], false);
  const json& quantize = schema["properties"]["quantize"];
  EXPECT_EQ(quantize["additionalProperties"], false);
  json bits = quantize["properties"]["bits"];
  bits.erase("description");
  EXPECT_EQ(bits, json({{"type", "integer"}, {"minimum", 2}, {"maximum", 8}, {"default", 4}}));
  EXPECT_EQ(quantize["properties"]["act_order"]["enum"], json({"none", "group_aware", "full"}));
  EXPECT_EQ(quantize["properties"]["damping"]["exclusiveMinimum"], 0.0);
  EXPECT_EQ(quantize["properties"]["rules"]["items"]["required"], json({"match"}));
}

TEST(Schema, EveryKeyIsDescribedInListingAndSchema) {
  const json schema = run_file_schema();
  const std::string listing = key_listing();
  for (const auto& field : run_file_fields()) {
    const json& property =
        schema["properties"][std::string(field.section())]["properties"][std::string(field.name())];
    EXPECT_FALSE(property.at("description").get<std::string>().empty()) << field.key;
    EXPECT_THAT(listing, HasSubstr("  " + std::string(field.key) + "\n"));
  }
}

TEST(Configs, EveryExampleParsesAndSaysWhenToUseIt) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(source_dir() / "configs")) {
    if (entry.path().extension() != ".yaml") continue;
    ++files;
    const std::string text = contents(entry.path());
    EXPECT_THAT(text, StartsWith("# yaml-language-server: $schema=run.schema.json\n# For "));
    EXPECT_EQ(complaint(text), "") << entry.path();
    const json resolved = resolved_json(parse(text).run);
    EXPECT_EQ(resolved_json(parse(resolved.dump()).run), resolved) << entry.path();
  }
  EXPECT_GE(files, 10);
}

}  // namespace
}  // namespace quern::test
