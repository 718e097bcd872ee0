#include "pipeline/config/resolved.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "pipeline/config/fields.h"
#include "tests/pipeline/config/run_texts.h"

namespace quern::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

TEST(Resolved, JsonIsComplete) {
  const json resolved = resolved_json(
      parse(run_text("quantize: {bits: 3, rules: [{match: 'a\\.b', bits: 8}]}\n")).run);
  EXPECT_EQ(resolved, json::parse(R"({
    "model": {"path": "models/m", "ignore_fields": []},
    "calibration": {"source": ["text.txt"], "field": "text", "samples": 128,
                    "sequence_length": 2048, "seed": 0, "micro_batch": 4, "sampling": "random",
                    "max_characters": 0, "bos": "auto"},
    "quantize": {"method": "gptq", "bits": 3, "group_size": 128, "symmetric": true,
                 "scale_search": "weighted", "act_order": "none", "damping": 0.01,
                 "propagation": "quantized", "true_sequential": true, "lm_head": false,
                 "rules": [{"match": "a\\.b", "bits": 8, "skip": false}],
                 "sparsity": {"sensitive": 0.0, "magnitude": 0.0, "rule": "paper",
                              "budget": "module"},
                 "codebook_type": "float32", "codebook_search": "kmeans",
                 "codebook_damping": 0.5},
    "output": {"path": "out/m", "format": "gptq", "shard_size": 5000000000},
    "evaluate": {"source": [], "field": "text", "sequence_length": 2048, "samples": 0,
                 "micro_batch": 4, "max_characters": 0, "bos": "auto"},
    "run": {"directory": "runs/m", "device": "auto", "activation_type": "auto", "gpu_memory": 0,
            "resume": "auto", "threads": 0,
            "save_activations": 0, "statistics": "discard", "activation_memory": 0, "watchdog": 6, "deadline": 3600, "log_level": "info",
            "ignore_numerics": false}})"));
}

TEST(Resolved, IdentityHoldsWhatDecidesTheCodes) {
  const auto identity = [](const std::vector<std::string>& overrides) {
    return identity_json(parse(run_text(), overrides).run);
  };
  const json plain = identity({});
  for (const char* same :
       {"model.path=b", "model.ignore_fields=[f]", "calibration.source=[x, y]", "output.path=p",
        "output.shard_size=1GB", "output.format=dequantized", "evaluate.source=e",
        "run.directory=d", "run.threads=7", "run.log_level=debug", "run.ignore_numerics=true",
        "run.save_activations=2", "run.device=cuda", "run.activation_type=float16",
        "run.statistics=keep", "run.statistics_directory=s", "run.activation_memory=1GB"}) {
    EXPECT_EQ(identity({same}), plain) << same;
  }
  for (const char* other :
       {"calibration={source: text.txt, field: f}", "calibration.samples=1", "calibration.seed=1",
        "calibration.sequence_length=64", "calibration.micro_batch=8", "calibration.bos=never",
        "calibration.sampling=sequential", "calibration.max_characters=5", "quantize.method=rtn",
        "quantize.bits=3", "quantize.group_size=64", "quantize.symmetric=false",
        "quantize.act_order=full", "quantize.scale_search=absmax", "quantize.damping=0.02",
        "quantize.propagation=original", "quantize.true_sequential=false", "quantize.lm_head=true",
        "quantize.rules=[{match: a, bits: 2}]"}) {
    EXPECT_NE(identity({other}), plain) << other;
  }
}

TEST(Resolved, IdentityHoldsOnlyWhatTheMethodKnows) {
  const auto keys = [](const std::vector<std::string>& overrides) {
    std::set<std::string> names;
    const json identity = identity_json(parse(run_text(), overrides).run);
    for (const auto& [name, value] : identity.at("quantize").items()) names.insert(name);
    return names;
  };
  using Keys = std::set<std::string>;
  EXPECT_EQ(keys({"quantize.method=rtn"}), (Keys{"method", "bits", "group_size", "symmetric",
                                                 "scale_search", "lm_head", "rules"}));
  EXPECT_EQ(keys({}), (Keys{"method", "bits", "group_size", "symmetric", "scale_search", "lm_head",
                            "rules", "act_order", "damping", "propagation", "true_sequential"}));
  EXPECT_EQ(keys({"quantize.method=squeezellm"}),
            (Keys{"method", "bits", "rules", "sparsity", "codebook_type", "codebook_search",
                  "codebook_damping"}));
  EXPECT_EQ(keys({"quantize={method: squeezellm, target_bits: 3}", "output.format=dequantized"}),
            (Keys{"method", "target_bits", "rules", "sparsity", "codebook_type", "codebook_search",
                  "codebook_damping"}));
}

TEST(Resolved, IdentityOfTablesHoldsWhatDecidesTheCodes) {
  const auto identity = [](const std::string& quantize) {
    return identity_json(parse(run_text(), {"quantize={method: squeezellm" + quantize + "}",
                                            "output.format=squeezellm_safetensors"})
                             .run);
  };
  EXPECT_EQ(identity(", sparsity: 0.0045"),
            identity(", sparsity: {sensitive: 0.0005, magnitude: 0.004}"));
  for (const char* other :
       {", bits: 3", ", sparsity: 0.0005", ", sparsity: {rule: joint}",
        ", sparsity: {rule: joint, budget: model}", ", codebook_type: float16",
        ", codebook_search: lnq", ", target_bits: 4", ", rules: [{match: a, bits: 3}]"}) {
    EXPECT_NE(identity(other), identity("")) << other;
  }
}

TEST(Resolved, TextNamesOrigins) {
  const std::string text =
      resolved_text(parse(run_text("quantize:\n  bits: 3\n"), {"run.threads=2"}));
  EXPECT_THAT(text, testing::ContainsRegex("  bits: 3 +# run.yaml:6\n"));
  EXPECT_THAT(text, testing::ContainsRegex("  threads: 2 +# --set\n"));
  EXPECT_THAT(text, testing::ContainsRegex("  damping: 0.01 +# default\n"));
}

TEST(Resolved, TextParsesToTheSameValues) {
  const std::vector<std::vector<std::string>> variants{
      {},
      {"quantize.rules=[{match: '.*\\.q_proj', bits: 8}, {match: 'a', skip: true}, {match: b, "
       "skip: "
       "false}]"},
      {"model.path='a \"quoted\" # path: {x}'", "calibration.field='123'"},
      {"calibration.source=['\xC3\xA9\xE2\x82\xAC.txt', 'true', '- x', '0x1']"},
      {"quantize.propagation=original", "quantize.damping=1e-7", "output.shard_size=3MiB"},
      {"quantize.method=rtn", "calibration.source=[]"},
      {"run.watchdog=2min", "evaluate.source=[a, b]", "evaluate.samples=3"},
      {"run.statistics=keep", "run.statistics_directory=s", "run.activation_memory=2GiB"},
      {"quantize={method: squeezellm, bits: 3, sparsity: 0.0045, codebook_type: float16}"},
      {"quantize={method: squeezellm, target_bits: 3.25, codebook_search: lnq, sparsity: "
       "{sensitive: 0.01, rule: joint, budget: model}}",
       "output.format=squeezellm_safetensors"},
      {"sweep={method: [rtn, gptq, squeezellm], bits: 3, group_size: [-1, 64], sparsity: [0, "
       "{magnitude: 0.004}], points: [{method: gptq, bits: 8}], exclude: [{group_size: 64}]}"},
  };
  for (const auto& overrides : variants) {
    const ParsedRunFile first = parse(run_text(), overrides);
    const std::string text = resolved_text(first);
    const ParsedRunFile second = parse(text);
    EXPECT_EQ(resolved_json(second.run), resolved_json(first.run)) << text;
    for (const auto& field : run_file_fields()) {
      if (field.value(first.run).is_null()) continue;
      EXPECT_THAT(second.origin.at(std::string(field.key)), HasSubstr("run.yaml:")) << field.key;
    }
  }
}

TEST(Resolved, AFileNameCannotEscapeItsComment) {
  const ParsedRunFile parsed = parse_run_file(run_text(), "a\nmodel: {path: evil}", {});
  EXPECT_EQ(parse(resolved_text(parsed)).run.model.path, "models/m");
}

}  // namespace
}  // namespace quern::test
