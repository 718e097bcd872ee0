#include "pipeline/config/checks.h"

#include <fmt/format.h>

#include <array>
#include <filesystem>

#include "pipeline/config/enum_names.h"
#include "pipeline/config/fields.h"

namespace quern {
namespace {

/// The place of a key, or of the nearest thing around it that is set.
Place place_of(const Places& places, std::string key) {
  while (!places.contains(key)) {
    const std::size_t end = key.find_last_of(".[");
    key.resize(end == std::string::npos ? 0 : end);
  }
  return places.at(key);
}

void check_folders_differ(const RunFile& run, const Places& places) {
  struct Folder {
    const char* key;
    std::filesystem::path path;
  };
  const auto plain = [](const std::filesystem::path& path) {
    const auto normal = path.lexically_normal();
    return normal.has_filename() ? normal : normal.parent_path();
  };
  const std::array<Folder, 3> folders{{{"model.path", plain(run.model.path)},
                                       {"output.path", plain(run.output.path)},
                                       {"run.directory", plain(run.run.directory)}}};
  for (std::size_t i = 1; i < folders.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (folders[i].path != folders[j].path) continue;
      fail(place_of(places, folders[i].key), folders[i].key,
           fmt::format("the same folder as {}", folders[j].key), "a folder of its own",
           "choose another path");
    }
  }
}

void check_method(const RunFile& run, const Places& places) {
  if (run.quantize.method == Method::gptq) {
    if (!run.calibration.text.source.empty()) return;
    fail(place_of(places, "calibration.source"), "calibration.source", "missing",
         "a path or a list of paths, because quantize.method gptq needs calibration text",
         "add it, or choose method rtn");
  }
  const RunFile defaults;
  for (const Field<RunFile>& field : run_file_fields()) {
    const nlohmann::json usual = field.value(defaults);
    if (!field.calibrated || field.value(run) == usual) continue;
    fail(place_of(places, std::string(field.key)), field.key, "no effect on quantize.method rtn",
         fmt::format("method gptq, or {}", usual.dump()), "remove it or choose method gptq");
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

void check_packable(const Places& places, const std::string& key, int bits) {
  if (bits < 5 || bits > 7) return;
  fail(place_of(places, key), key, fmt::format("output.format gptq cannot pack {} bits", bits),
       "2, 3, 4 or 8", "choose one of them, or output.format dequantized, which allows 5, 6 and 7");
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

}  // namespace

void check_together(RunFile& run, const Places& places) {
  check_folders_differ(run, places);
  check_method(run, places);
  if (run.quantize.method == Method::gptq) settle_true_sequential(run, places);
  const bool packed = run.output.format == OutputFormat::gptq;
  if (packed) check_packable(places, "quantize.bits", run.quantize.grid.bits);
  for (std::size_t i = 0; i < run.quantize.rules.size(); ++i) {
    const std::string key = fmt::format("quantize.rules[{}]", i);
    check_rule(run.quantize.rules[i], places, key);
    if (packed) check_packable(places, key + ".bits", run.quantize.rules[i].bits.value_or(4));
  }
}

}  // namespace quern
