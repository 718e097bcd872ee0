#include "pipeline/report/sweep_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "pipeline/report/module_views.h"
#include "pipeline/report/page.h"
#include "pipeline/report/plot.h"

namespace quern {
namespace {

using nlohmann::json;

constexpr const char* kBest = " <span class=best title=\"best at its size\">&#9733;</span>";

std::optional<double> number_at(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number() ? std::optional(found->get<double>())
                                                     : std::nullopt;
}

/// What the page and the CSV need of one point.
struct Entry {
  const json* point = nullptr;
  std::string name;
  std::string method;
  std::string bits;   ///< or target bits; "" if neither is known
  std::string group;  ///< "row" for -1; "" for methods without
  double sparsity = 0.0;
  std::string rule;  ///< "" without outliers
  double bits_per_weight = 0.0;
  std::optional<double> perplexity;
  bool best = false;  ///< no other point is as small and better, or smaller and as good
};

void read_settings(const json& settings, Entry& entry) {
  entry.method = settings.at("method").get<std::string>();
  const char* bits = settings.contains("target_bits") ? "target_bits" : "bits";
  if (const auto value = number_at(settings, bits)) entry.bits = fmt::format("{}", *value);
  if (const auto size = number_at(settings, "group_size")) {
    entry.group = *size < 0 ? std::string("row") : fmt::format("{}", *size);
  }
  if (!settings.contains("sparsity")) return;
  const json& sparsity = settings["sparsity"];
  if (sparsity.is_object()) {
    entry.sparsity = sparsity.value("sensitive", 0.0) + sparsity.value("magnitude", 0.0);
    entry.rule = sparsity.value("rule", "paper");
    if (sparsity.value("budget", "module") == "model") entry.rule += ", model";
  } else if (sparsity.is_number()) {
    entry.sparsity = sparsity.get<double>();
    entry.rule = "paper";
  }
  if (entry.sparsity == 0.0) entry.rule.clear();
}

void mark_best(std::vector<Entry>& entries) {
  for (Entry& entry : entries) {
    entry.best = entry.perplexity && std::ranges::none_of(entries, [&](const Entry& other) {
                   if (!other.perplexity) return false;
                   const bool as_good = other.bits_per_weight <= entry.bits_per_weight &&
                                        *other.perplexity <= *entry.perplexity;
                   return as_good && (other.bits_per_weight < entry.bits_per_weight ||
                                      *other.perplexity < *entry.perplexity);
                 });
  }
}

std::vector<Entry> entries_of(const json& sweep) {
  std::vector<Entry> entries;
  for (const json& point : sweep.at("points")) {
    Entry entry;
    entry.point = &point;
    entry.name = point.at("name").get<std::string>();
    read_settings(point.at("settings"), entry);
    entry.bits_per_weight = point.at("bits_per_weight").get<double>();
    entry.perplexity = number_at(point, "perplexity");
    entries.push_back(std::move(entry));
  }
  mark_best(entries);
  return entries;
}

std::string series_name(const Entry& entry) {
  if (entry.rule.empty()) return entry.method;
  const std::string name = fmt::format("{} + {:.4g} % exact", entry.method, 100.0 * entry.sparsity);
  return entry.rule == "paper" ? name : fmt::format("{} ({})", name, entry.rule);
}

std::string point_label(const Entry& entry) {
  const std::string bits = entry.bits.empty() ? "" : fmt::format("b{}", entry.bits);
  if (entry.group.empty()) return bits;
  return entry.group == "row" ? bits + " row" : fmt::format("{} g{}", bits, entry.group);
}

Plot plot_of(const std::vector<Entry>& entries, const std::optional<double>& before) {
  Plot plot;
  plot.name = "Perplexity against bits per weight, one marker per point";
  plot.x_title = "bits per weight";
  plot.y_title = "perplexity";
  std::vector<std::pair<double, double>> front;
  for (const Entry& entry : entries) {
    if (!entry.perplexity || *entry.perplexity <= 0.0) continue;
    const std::string name = series_name(entry);
    auto series = std::ranges::find(plot.series, name, &Plot::Series::name);
    if (series == plot.series.end()) series = plot.series.insert(series, {name, {}});
    series->points.push_back({entry.bits_per_weight, *entry.perplexity, point_label(entry),
                              fmt::format("{}: perplexity {:.4f} at {:.3f} bits per weight",
                                          entry.name, *entry.perplexity, entry.bits_per_weight)});
    if (entry.best) front.emplace_back(entry.bits_per_weight, *entry.perplexity);
  }
  std::ranges::sort(front);
  plot.front = std::move(front);
  if (before && *before > 0.0) {
    plot.level = Plot::Level{*before, fmt::format("full precision {:.3f}", *before)};
  }
  return plot;
}

std::string overview(const json& sweep, const std::vector<Entry>& entries) {
  const json& model = sweep.at("model");
  const auto before = number_at(sweep, "perplexity_before");
  const auto reused = std::ranges::count_if(
      entries, [](const Entry& entry) { return entry.point->value("reused_statistics", false); });
  FactTable facts;
  facts.add("Model",
            fmt::format("{} ({}, {} layers)", model.at("path").get<std::string>(),
                        model.at("type").get<std::string>(), model.at("layers").get<int>()));
  facts.add("Points", fmt::format("{}, of which {} reused statistics", entries.size(), reused));
  facts.add("Perplexity before", before ? fmt::format("{:.4f}", *before) : "not evaluated");
  facts.add("Time", fmt::format("{}, of which {} to measure statistics",
                                seconds_text(sweep.at("seconds").get<double>()),
                                seconds_text(sweep.at("statistics_seconds").get<double>())));
  return facts.html();
}

std::string link_to(const Entry& entry) {
  const std::string target = entry.point->value("report", "");
  const std::string name = escaped(entry.name);
  return target.empty() ? name : fmt::format("<a href=\"{}\">{}</a>", escaped(target), name);
}

std::string statistics_text(const Entry& entry) {
  if (entry.method == "rtn") return "none";
  return entry.point->value("reused_statistics", false) ? "reused" : "measured";
}

std::string point_table(const std::vector<Entry>& entries, const std::optional<double>& before) {
  Table table({{"Point", Table::Align::text},
               {"Bits per weight"},
               {"Perplexity"},
               {"Over full precision"},
               {"Size"},
               {"Objective"},
               {"Time"},
               {"Statistics", Table::Align::text}});
  for (const Entry& entry : entries) {
    const json& point = *entry.point;
    const auto objective = number_at(point, "objective");
    const std::string perplexity =
        entry.perplexity ? fmt::format("{:.4f}", *entry.perplexity) : "-";
    const bool compared = entry.perplexity && before && *before > 0.0;
    std::string name = link_to(entry);
    if (entry.best) name += kBest;
    table.add(
        {name, fmt::format("{:.3f}", entry.bits_per_weight), perplexity,
         compared ? fmt::format("{:+.2f} %", 100.0 * (*entry.perplexity / *before - 1.0)) : "-",
         bytes_text(point.at("bytes").get<double>()),
         objective && *objective != 0.0 ? fmt::format("{:.4g}", *objective) : "-",
         seconds_text(point.at("seconds").get<double>()), statistics_text(entry)});
  }
  return table.html();
}

std::string point_section(const Entry& entry, const HeatMap& map, const ColourRange& range) {
  const std::string perplexity =
      entry.perplexity ? fmt::format(", perplexity {:.4f}", *entry.perplexity) : "";
  std::string html =
      fmt::format("<section><h3>{}</h3>\n<p class=soft>{:.3f} bits per weight{}</p>\n",
                  escaped(entry.name), entry.bits_per_weight, perplexity);
  html += heat_map_html(map, range);
  return html + fmt::format("<details><summary>Time per stage</summary>\n{}</details></section>\n",
                            stage_table(entry.point->at("stages")));
}

/// The errors of all points of one method, in the same colours: of different methods they are
/// weighted by different statistics and cannot be compared.
std::string method_section(const std::string& method, const std::vector<Entry>& entries) {
  std::vector<std::pair<const Entry*, HeatMap>> maps;
  std::optional<ColourRange> range;
  for (const Entry& entry : entries) {
    if (entry.method != method) continue;
    maps.emplace_back(&entry, error_map(entry.point->at("modules")));
    const ColourRange own = range_of(maps.back().second);
    if (maps.back().second.cells.empty()) continue;
    range = range ? united(*range, own) : own;
  }
  const ColourRange shared = range.value_or(ColourRange{});
  std::string html = fmt::format("<h2>Error by layer and module: {}</h2>\n", escaped(method)) +
                     colour_legend(shared, "Relative error") + "<div class=tiles>\n";
  for (const auto& [entry, map] : maps) html += point_section(*entry, map, shared);
  return html + "</div>\n";
}

std::string csv_text(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  std::string quoted(1, '"');
  for (const char c : text) {
    quoted += c;
    if (c == '"') quoted += c;
  }
  quoted += '"';
  return quoted;
}

std::string csv_number(const std::optional<double>& value) {
  return value ? fmt::format("{}", *value) : std::string();
}

std::string csv_line(std::span<const std::string> cells) {
  std::string line;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    if (i > 0) line += ',';
    line += csv_text(cells[i]);
  }
  line += "\r\n";
  return line;
}

}  // namespace

std::string sweep_html(const json& sweep) {
  const std::vector<Entry> entries = entries_of(sweep);
  const auto before = number_at(sweep, "perplexity_before");
  std::string body = overview(sweep, entries);
  const std::string plot = plot_html(plot_of(entries, before));
  if (!plot.empty()) {
    body += "<h2>Quality against size</h2>\n" + plot;
    body +=
        "<p class=soft>The dotted line and &#9733; mark points that no other one beats: none is "
        "both as small and as good.</p>\n";
  }
  body += "<h2>Points</h2>\n" + point_table(entries, before);
  std::vector<std::string> methods;
  for (const Entry& entry : entries) {
    if (std::ranges::find(methods, entry.method) == methods.end()) methods.push_back(entry.method);
  }
  for (const std::string& method : methods) body += method_section(method, entries);
  return html_page(fmt::format("{}: sweep", sweep.at("tool").get<std::string>()), body);
}

std::string sweep_csv(const json& sweep) {
  const std::array<std::string, 12> heads{
      "name",          "method",           "bits",  "group_size", "sparsity",
      "sparsity_rule", "bits_per_weight",  "bytes", "perplexity", "objective",
      "seconds",       "reused_statistics"};
  std::string text = csv_line(heads);
  for (const Entry& entry : entries_of(sweep)) {
    const json& point = *entry.point;
    const json& settings = point.at("settings");
    const bool sparse = settings.contains("sparsity");
    text += csv_line(std::array<std::string, 12>{
        entry.name, entry.method, entry.bits, csv_number(number_at(settings, "group_size")),
        sparse ? fmt::format("{:.12g}", entry.sparsity) : "", entry.rule,
        csv_number(entry.bits_per_weight), csv_number(number_at(point, "bytes")),
        csv_number(entry.perplexity), csv_number(number_at(point, "objective")),
        csv_number(number_at(point, "seconds")),
        point.value("reused_statistics", false) ? "true" : "false"});
  }
  return text;
}

}  // namespace quern
