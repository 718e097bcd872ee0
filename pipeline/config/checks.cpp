#include "pipeline/config/checks.h"

#include <fmt/format.h>

#include <array>
#include <filesystem>

#include "pipeline/config/enum_names.h"
#include "pipeline/config/nested_fields.h"
#include "pipeline/config/sweep.h"
#include "pipeline/config/sweep_checks.h"

namespace quern {
namespace {

void check_folders_differ(const RunFile& run, const Places& places) {
  struct Folder {
    const char* key;
    std::filesystem::path path;
  };
  const auto plain = [](const std::filesystem::path& path) {
    const auto normal = path.lexically_normal();
    return normal.has_filename() ? normal : normal.parent_path();
  };
  const std::array<Folder, 4> folders{
      {{"model.path", plain(run.model.path)},
       {"output.path", plain(run.output.path)},
       {"run.directory", plain(run.run.directory)},
       {"run.statistics_directory", plain(run.run.statistics_directory)}}};
  for (std::size_t i = 1; i < folders.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (folders[i].path != folders[j].path) continue;
      fail(place_of(places, folders[i].key), folders[i].key,
           fmt::format("the same folder as {}", folders[j].key), "a folder of its own",
           "choose another path");
    }
  }
}

void check_calibration(const RunFile& run, const Places& places) {
  if (run.quantize.method == Method::rtn || !run.calibration.text.source.empty()) return;
  fail(place_of(places, "calibration.source"), "calibration.source", "missing",
       fmt::format("a path or a list of paths, because quantize.method {} needs calibration text",
                   name_of(run.quantize.method)),
       "add it, or choose method rtn");
}

void check_effects(const RunFile& run, const Places& places) {
  const Method method = run.quantize.method;
  const RunFile defaults;
  for (const Field<RunFile>& field : run_file_fields()) {
    const nlohmann::json usual = field.value(defaults);
    if (field.methods.contains(method) || field.value(run) == usual) continue;
    const std::string names = field.methods.names();
    fail(place_of(places, std::string(field.key)), field.key,
         fmt::format("no effect on quantize.method {}", name_of(method)),
         fmt::format("method {}{}", names,
                     usual.is_null() ? "" : fmt::format(", or {}", usual.dump())),
         fmt::format("remove it or choose method {}", names));
  }
}

void settle_true_sequential(RunFile& run, const Places& places) {
  const std::string key = "quantize.true_sequential";
  if (run.quantize.propagation != Propagation::original || !run.quantize.true_sequential) return;
  if (places.contains(key)) {
    fail(place_of(places, key), key,
         "quantize.propagation original measures with the original weights only, so no module "
         "stands behind a quantized one",
         "false, or propagation quantized", "change one of the two");
  }
  run.quantize.true_sequential = false;
}

void check_format(const RunFile& run, const Places& places) {
  const Method method = run.quantize.method;
  if (holds(run.output.format, method)) return;
  const bool tables = method == Method::squeezellm;
  fail(place_of(places, "output.format"), "output.format",
       fmt::format("{} cannot hold what quantize.method {} makes, codes {}",
                   name_of(run.output.format), name_of(method), tables ? "of tables" : "on a grid"),
       tables ? "squeezellm, squeezellm_safetensors or dequantized" : "gptq or dequantized",
       "choose one of them, or remove the key");
}

void check_packable(const Places& places, const std::string& key, int bits) {
  if (bits < 5 || bits > 7) return;
  fail(place_of(places, key), key, fmt::format("output.format gptq cannot pack {} bits", bits),
       "2, 3, 4 or 8", "choose one of them, or output.format dequantized, which allows 5, 6 and 7");
}

/// SqueezeLLM's own file has one bit width for the whole model.
void check_one_bit_width(const QuantizeConfig& quantize, const Places& places) {
  const std::string what =
      "output.format squeezellm, a .pt file, holds codes of one bit width for all modules";
  const std::string advice =
      "remove it, or choose output.format squeezellm_safetensors or dequantized";
  if (quantize.target_bits) {
    fail(place_of(places, "quantize.target_bits"), "quantize.target_bits", what,
         "bits instead of target_bits", advice);
  }
  for (std::size_t i = 0; i < quantize.rules.size(); ++i) {
    const QuantizeRule& rule = quantize.rules[i];
    if (rule.skip || rule.bits.value_or(quantize.grid.bits) == quantize.grid.bits) continue;
    const std::string key = fmt::format("quantize.rules[{}].bits", i);
    fail(place_of(places, key), key, what, fmt::format("{}, as quantize.bits", quantize.grid.bits),
         advice);
  }
}

void check_target_bits(const RunFile& run, const Places& places) {
  if (!run.quantize.target_bits) return;
  std::vector<std::string> keys = {"quantize.bits"};
  for (std::size_t i = 0; i < run.quantize.rules.size(); ++i) {
    keys.push_back(fmt::format("quantize.rules[{}].bits", i));
  }
  for (const std::string& key : keys) {
    if (!places.contains(key)) continue;
    fail(place_of(places, key), key, "quantize.target_bits chooses the bits of each module",
         "one of the two", "remove bits or target_bits");
  }
}

/// Keys of rules that the method does not know.
void check_rule_keys(const RunFile& run, const Places& places) {
  const Method method = run.quantize.method;
  for (std::size_t i = 0; i < run.quantize.rules.size(); ++i) {
    for (const Field<QuantizeRule>& field : rule_fields()) {
      const nlohmann::json value = field.value(run.quantize.rules[i]);
      if (field.methods.contains(method) || value.is_null()) continue;
      const std::string key = fmt::format("quantize.rules[{}].{}", i, field.key);
      fail(place_of(places, key), key,
           fmt::format("no effect on quantize.method {}", name_of(method)),
           fmt::format("method {}", field.methods.names()),
           fmt::format("remove it or choose method {}", field.methods.names()));
    }
  }
}

void check_rule(const QuantizeRule& rule, const Places& places, const std::string& key) {
  const bool changes = rule.bits || rule.group_size || rule.symmetric;
  if (rule.skip && changes) {
    fail(place_of(places, key), key, "a skipped module has no bits, group_size or symmetric",
         "skip alone", "remove the others, or skip");
  }
  if (!changes && !places.contains(key + ".skip")) {
    fail(place_of(places, key), key, "the rule changes nothing",
         "bits, group_size, symmetric or skip",
         "add one; 'skip: false' exempts these modules from later rules");
  }
}

void check_device(const RunFile& run, const Places& places) {
  const std::string key = "run.activation_type";
  const ActivationType type = run.run.activation_type;
  const bool has_16_bits = type == ActivationType::bfloat16 || type == ActivationType::float16;
  if (run.run.device != Device::cpu || !has_16_bits) return;
  fail(place_of(places, key), key, "run.device cpu does not compute in 16 bits",
       "auto, float32 or float64", "remove it, or choose another device");
}

}  // namespace

Place place_of(const Places& places, std::string key) {
  while (!places.contains(key)) {
    const std::size_t end = key.find_last_of(".[");
    key.resize(end == std::string::npos ? 0 : end);
  }
  return places.at(key);
}

void check_settings(RunFile& run, const Places& places) {
  check_calibration(run, places);
  check_effects(run, places);
  check_rule_keys(run, places);
  check_format(run, places);
  check_target_bits(run, places);
  if (run.quantize.method == Method::gptq) settle_true_sequential(run, places);
  if (run.output.format == OutputFormat::squeezellm) check_one_bit_width(run.quantize, places);
  if (run.output.format != OutputFormat::gptq) return;
  check_packable(places, "quantize.bits", run.quantize.grid.bits);
  for (std::size_t i = 0; i < run.quantize.rules.size(); ++i) {
    check_packable(places, fmt::format("quantize.rules[{}].bits", i),
                   run.quantize.rules[i].bits.value_or(4));
  }
}

void check_together(RunFile& run, const Places& places) {
  check_folders_differ(run, places);
  check_device(run, places);
  for (std::size_t i = 0; i < run.quantize.rules.size(); ++i) {
    check_rule(run.quantize.rules[i], places, fmt::format("quantize.rules[{}]", i));
  }
  if (!places.contains("output.format")) run.output.format = usual_format(run.quantize.method);
  if (asks_for_sweep(run)) {
    check_sweep(run, places);
  } else {
    check_settings(run, places);
  }
}

}  // namespace quern
