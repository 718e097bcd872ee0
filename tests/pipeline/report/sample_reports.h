#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace quern::test {

inline nlohmann::json module_row(const std::string& name) {
  return {{"name", name},
          {"out_features", 192},
          {"in_features", 512},
          {"bits", 4},
          {"group_size", 128},
          {"relative_error", 1.25e-3},
          {"damping_fraction", 0.01},
          {"dead_columns", 2}};
}

/// A small report.json, with text that HTML must escape.
inline nlohmann::json sample_report() {
  const nlohmann::json perplexity = {
      {"perplexity", 35.5}, {"mean_nll", 3.57}, {"tokens", 1000}, {"windows", 4}};
  return {
      {"tool", "quern 0.1.0"},
      {"numerics", "cpu <\"b&w\">"},
      {"ranks", 2},
      {"config", {{"model", {{"path", "</pre><script>"}}}}},
      {"model", {{"path", "models/a&b"}, {"type", "llama"}, {"layers", 4}}},
      {"seconds", 12.5},
      {"stages", {{{"stage", "solve"}, {"seconds", 5.0}, {"share", 0.4}}}},
      {"layers", {{{"layer", 0}, {"seconds", 3.0}, {"stages", {{"solve", 2.5}}}, {"idle", 0.5}}}},
      {"memory", {{"peak_rank_bytes", 123456789}, {"predicted_rank_bytes", 100000000}}},
      {"perplexity", {{"before", perplexity}, {"after", nullptr}}},
      {"output",
       {{"path", "out/x"},
        {"bytes", 4000000},
        {"predicted_bytes", 4000001},
        {"bits_per_quantized_weight", 4.156}}},
      {"verify",
       {{"passed", true},
        {"files", 7},
        {"quantized_modules", 2},
        {"other_tensors", 3},
        {"problems", nlohmann::json::array()}}},
      {"warnings", {"3 bits <are> unusual"}},
      {"modules", {module_row("model.layers.0.mlp.up_proj"), module_row("m<1>&\"q\"")}}};
}

/// A sweep.json of `points` points that crowd around few sizes and perplexities.
inline nlohmann::json sample_sweep(int points) {
  nlohmann::json sweep = {{"tool", "quern 0.1.0"},
                          {"model", {{"path", "models/a&b"}, {"type", "llama"}, {"layers", 32}}},
                          {"perplexity_before", 35.066},
                          {"seconds", 4000.0},
                          {"statistics_seconds", 600.0},
                          {"points", nlohmann::json::array()}};
  for (int i = 0; i < points; ++i) {
    const bool tables = i % 2 == 1;
    const int bits = 2 + i % 3;
    nlohmann::json settings = {{"method", tables ? "squeezellm" : "gptq"}, {"bits", bits}};
    if (tables) {
      settings["sparsity"] = {{"sensitive", 0.0005}, {"magnitude", 0.004}, {"rule", "paper"}};
    } else {
      settings["group_size"] = 128;
    }
    nlohmann::json modules = nlohmann::json::array();
    for (int layer = 0; layer < 32; ++layer) {
      modules.push_back(module_row("model.layers." + std::to_string(layer) + ".self_attn.q_proj"));
    }
    sweep["points"].push_back({{"name", "point-" + std::to_string(i)},
                               {"settings", settings},
                               {"bits_per_weight", bits + 0.1 + 0.02 * i},
                               {"bytes", 1'000'000 * bits},
                               {"perplexity", 35.1 + 40.0 / (bits * bits * bits) + 0.01 * i},
                               {"objective", 1.5},
                               {"seconds", 12.5},
                               {"reused_statistics", i > 0},
                               {"stages", {{{"stage", "solve"}, {"seconds", 5.0}, {"share", 0.4}}}},
                               {"modules", modules},
                               {"report", "point/report.html"}});
  }
  return sweep;
}

}  // namespace quern::test
