#include "pipeline/config/sweep_checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "pipeline/config/enum_names.h"
#include "pipeline/config/nested_fields.h"
#include "pipeline/config/sweep.h"

namespace quern {
namespace {

constexpr std::size_t kMaxPoints = 1000;

[[noreturn]] void fail_without_effect(const Places& places, const std::string& key,
                                      MethodSet effective, MethodSet present) {
  fail(place_of(places, key), key,
       fmt::format("no effect on the points of the sweep, which are of method {}", present.names()),
       fmt::format("a point of method {}", effective.names()), "remove it or add such a point");
}

void check_count(const SweepConfig& sweep, const Places& places) {
  std::size_t points = 1;
  for (const std::size_t values :
       {sweep.method.size(), sweep.bits.size(), sweep.group_size.size(), sweep.sparsity.size()}) {
    points *= std::max<std::size_t>(values, 1);
    if (points <= kMaxPoints) continue;
    fail(place_of(places, "sweep"), "sweep", "the product of the lists is too large",
         fmt::format("at most {} points", kMaxPoints), "shorten a list");
  }
}

/// Entries that set nothing, or what their method does not know.
void check_entries(const std::vector<SweepPoint>& entries, const RunFile& run,
                   const std::string& list, const Places& places) {
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const std::string key = fmt::format("{}[{}]", list, i);
    if (entries[i] == SweepPoint{}) {
      fail(place_of(places, key), key, "the entry sets nothing",
           "method, bits, group_size or sparsity", "add one, or remove the entry");
    }
    if (list == "sweep.exclude" && !entries[i].method) continue;
    const Method method = entries[i].method.value_or(run.quantize.method);
    for (const Field<SweepPoint>& field : point_fields()) {
      if (field.methods.contains(method) || field.value(entries[i]).is_null()) continue;
      const std::string name = fmt::format("{}.{}", key, field.key);
      fail(place_of(places, name), name, fmt::format("no effect on method {}", name_of(method)),
           fmt::format("method {}", field.methods.names()), "remove it or change the method");
    }
  }
}

void check_effects(const RunFile& run, MethodSet present, const Places& places) {
  const RunFile defaults;
  for (const Field<RunFile>& field : run_file_fields()) {
    if (field.methods.meets(present) || field.value(run) == field.value(defaults)) continue;
    fail_without_effect(places, std::string(field.key), field.methods, present);
  }
  for (std::size_t i = 0; i < run.quantize.rules.size(); ++i) {
    for (const Field<QuantizeRule>& field : rule_fields()) {
      if (field.methods.meets(present) || field.value(run.quantize.rules[i]).is_null()) continue;
      fail_without_effect(places, fmt::format("quantize.rules[{}].{}", i, field.key), field.methods,
                          present);
    }
  }
}

void remove_excluded(std::vector<SweepChoice>& choices, const SweepConfig& sweep,
                     const Places& places) {
  std::vector<SweepChoice> kept = choices;
  for (std::size_t i = 0; i < sweep.exclude.size(); ++i) {
    const auto excluded = [&](const SweepChoice& choice) {
      return matches(sweep.exclude[i], choice.settings);
    };
    std::erase_if(kept, excluded);
    if (std::ranges::any_of(choices, excluded)) continue;
    const std::string key = fmt::format("sweep.exclude[{}]", i);
    fail(place_of(places, key), key, "excludes nothing", "settings that a point of the sweep has",
         "correct it or remove it");
  }
  choices = std::move(kept);
}

/// Places in which the settings of a point stand where the sweep gives them.
Places places_of(const Places& places, const SweepChoice& choice) {
  Places moved = places;
  for (const auto& [key, source] : choice.source) moved[key] = place_of(places, source);
  return moved;
}

}  // namespace

void check_sweep(const RunFile& run, const Places& places) {
  check_count(run.sweep, places);
  check_entries(run.sweep.points, run, "sweep.points", places);
  check_entries(run.sweep.exclude, run, "sweep.exclude", places);
  std::vector<SweepChoice> choices = swept_choices(run);
  remove_excluded(choices, run.sweep, places);
  if (choices.empty()) {
    fail(place_of(places, "sweep"), "sweep", "no point remains",
         "a list with a value, or points that are not excluded", "add one, or remove the section");
  }
  MethodSet present = MethodSet::none();
  for (const SweepChoice& choice : choices) present.insert(*choice.settings.method);
  check_effects(run, present, places);
  for (const SweepChoice& choice : choices) {
    RunFile point = at_point(run, choice.settings);
    check_settings(point, places_of(places, choice));
  }
}

}  // namespace quern
