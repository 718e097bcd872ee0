#include "pipeline/report/module_views.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <functional>
#include <map>
#include <set>
#include <vector>

#include "pipeline/report/page.h"

namespace quern {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxLayers = 10'000;  // a longer number names something else

std::optional<std::size_t> number_in(std::string_view part) {
  std::size_t value = 0;
  const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
  const bool whole = error == std::errc() && end == part.data() + part.size();
  return whole && value < kMaxLayers ? std::optional(value) : std::nullopt;
}

std::vector<std::string_view> parts_of(std::string_view name) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    parts.push_back(name.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

/// What is known about all modules that fall on one cell.
struct Worst {
  double value = -1.0;
  std::string name;
  int modules = 0;
};

/// Position of each distinct word, in order of first appearance.
class Positions {
 public:
  std::size_t of(const std::string& word) {
    const auto [found, added] = at_.try_emplace(word, words_.size());
    if (added) words_.push_back(word);
    return found->second;
  }
  std::vector<std::string> words() const { return words_; }

 private:
  std::map<std::string, std::size_t> at_;
  std::vector<std::string> words_;
};

std::string cell_title(const Worst& worst) {
  return worst.modules == 1
             ? fmt::format("{}: {:.3e}", worst.name, worst.value)
             : fmt::format("{}: {:.3e}, the worst of {}", worst.name, worst.value, worst.modules);
}

bool has_value(const json& module, const char* key) {
  return module.contains(key) && !module[key].is_null() && module[key] != 0;
}

std::string formatted(const json& module, const char* key, const char* pattern) {
  if (!module.contains(key) || !module[key].is_number()) return "";
  return fmt::format(fmt::runtime(pattern), module[key].get<double>());
}

std::string bits_text(const json& module) {
  const std::string bits = formatted(module, "bits", "{:g}");
  return module.value("values", "uniform") == "codebook" ? bits + " table" : bits;
}

std::string group_text(const json& module) {
  if (module.value("values", "uniform") == "codebook") return "row";
  return module.value("group_size", 0) < 0 ? "row" : formatted(module, "group_size", "{:g}");
}

struct ModuleColumn {
  Table::Column column;
  const char* key;  ///< shown only if a module has it and it is not 0; nullptr: always
  std::function<std::string(const json&)> text;
};

std::vector<ModuleColumn> module_columns() {
  const auto number = [](const char* key, const char* pattern) {
    return [key, pattern](const json& module) { return formatted(module, key, pattern); };
  };
  return {
      {{"Module", Table::Align::text},
       nullptr,
       [](const json& module) { return escaped(module.at("name").get<std::string>()); }},
      {{"Shape"},
       nullptr,
       [](const json& module) {
         return fmt::format("{} x {}", module.at("out_features").get<std::int64_t>(),
                            module.at("in_features").get<std::int64_t>());
       }},
      {{"Bits"}, nullptr, bits_text},
      {{"Group"}, nullptr, group_text},
      {{"Relative error"}, nullptr, number("relative_error", "{:.3e}")},
      {{"Objective"}, "objective", number("objective", "{:.4g}")},
      {{"Outliers"}, "outliers", number("outliers", "{:.0f}")},
      {{"Uninformed rows"}, "uninformed_rows", number("uninformed_rows", "{:.0f}")},
      {{"Damping"}, "damping_fraction", number("damping_fraction", "{:g}")},
      {{"Dead inputs"}, "dead_columns", number("dead_columns", "{:.0f}")},
  };
}

}  // namespace

ModulePlace place_of_module(std::string_view name) {
  const std::vector<std::string_view> parts = parts_of(name);
  const auto layer = std::ranges::find_if(
      parts, [](std::string_view part) { return number_in(part).has_value(); });
  if (layer == parts.end() || layer + 1 == parts.end()) return {{}, std::string(name)};
  std::string kind;
  for (auto part = layer + 1; part != parts.end(); ++part) {
    if (!kind.empty()) kind += '.';
    kind += number_in(*part) ? std::string("*") : std::string(*part);
  }
  return {number_in(*layer), kind};
}

HeatMap error_map(const json& modules) {
  using Key = std::pair<std::optional<std::size_t>, std::string>;
  std::map<Key, Worst> cells;
  Positions kinds;
  Positions others;
  HeatMap map;
  for (const json& module : modules) {
    if (!module.contains("relative_error") || !module["relative_error"].is_number()) continue;
    const auto name = module.at("name").get<std::string>();
    const ModulePlace place = place_of_module(name);
    if (place.layer) map.counted = std::max(map.counted, *place.layer + 1);
    (place.layer ? kinds : others).of(place.kind);
    Worst& worst = cells[{place.layer, place.kind}];
    const double value = module["relative_error"].get<double>();
    ++worst.modules;
    if (value > worst.value) worst = {value, name, worst.modules};
  }
  map.rows = kinds.words();
  for (std::size_t i = 0; i < map.counted; ++i) map.columns.push_back(fmt::format("{}", i));
  for (const std::string& name : others.words()) map.columns.push_back(name);
  for (const auto& [key, worst] : cells) {
    const auto& [layer, kind] = key;
    const std::size_t column = layer ? *layer : map.counted + others.of(kind);
    map.cells.push_back({column, layer ? std::optional(kinds.of(kind)) : std::nullopt, worst.value,
                         cell_title(worst)});
  }
  return map;
}

std::string module_table(const json& modules) {
  std::vector<ModuleColumn> shown;
  std::vector<Table::Column> heads;
  for (ModuleColumn& column : module_columns()) {
    const bool filled =
        column.key == nullptr || std::ranges::any_of(modules, [&](const json& module) {
          return has_value(module, column.key);
        });
    if (!filled) continue;
    heads.push_back(column.column);
    shown.push_back(std::move(column));
  }
  Table table(heads);
  for (const json& module : modules) {
    std::vector<std::string> cells;
    for (const ModuleColumn& column : shown) cells.push_back(column.text(module));
    table.add(cells);
  }
  return table.html();
}

std::string stage_table(const json& stages) {
  double largest = 0.0;
  for (const json& stage : stages) largest = std::max(largest, stage.at("share").get<double>());
  Table table({{"Stage", Table::Align::text}, {"Seconds"}, {"Share"}, {"", Table::Align::text}});
  for (const json& stage : stages) {
    const auto share = stage.at("share").get<double>();
    table.add({escaped(stage.at("stage").get<std::string>()),
               fmt::format("{:.2f}", stage.at("seconds").get<double>()),
               fmt::format("{:.1f} %", 100.0 * share),
               share_bar(largest > 0.0 ? share / largest : 0.0)});
  }
  return table.html();
}

std::string layer_table(const json& layers) {
  if (layers.empty()) return {};
  std::set<std::string> stages;  // heads are views of these
  for (const json& layer : layers) {
    for (const auto& [stage, seconds] : layer.at("stages").items()) stages.insert(stage);
  }
  std::vector<Table::Column> heads = {{"Layer"}};
  for (const std::string& stage : stages) heads.push_back({stage});
  heads.insert(heads.end(), {{"idle"}, {"all"}});
  const auto milliseconds = [](double seconds) { return fmt::format("{:.0f}", 1e3 * seconds); };
  Table table(heads);
  for (const json& layer : layers) {
    std::vector<std::string> cells = {fmt::format("{}", layer.at("layer").get<std::int64_t>())};
    for (const std::string& stage : stages) {
      cells.push_back(milliseconds(layer.at("stages").value(stage, 0.0)));
    }
    cells.push_back(milliseconds(layer.at("idle").get<double>()));
    cells.push_back(milliseconds(layer.at("seconds").get<double>()));
    table.add(cells);
  }
  return table.html();
}

}  // namespace quern
