#include "pipeline/report/page.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "kernels/core/error.h"

namespace quern {
namespace {

// Colours are chosen to be told apart on white and on black, on screen and in grey.
constexpr const char* kStyle = R"css(
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6470;--line:#d5dae1;--paper:#fff;--accent:#3b76b8;
--mark:#b4630a}
@media (prefers-color-scheme:dark){:root{--ink:#e4e7eb;--soft:#9aa4b0;--line:#3a424d;--paper:#14171b;
--accent:#6aa3e0;--mark:#f0a94e}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;color:var(--ink);
background:var(--paper);max-width:64rem;margin:0 auto;padding:1rem;print-color-adjust:exact;
-webkit-print-color-adjust:exact}
h1{font-size:1.4rem;margin:.5rem 0 1rem}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
h3{font-size:1rem;margin:0 0 .3rem;overflow-wrap:anywhere}
p{margin:.4rem 0 .8rem}.soft{color:var(--soft);font-size:.875rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{font-weight:600}
table.facts{width:100%}table.facts th{width:12rem;color:var(--soft);font-weight:500}
table.facts td{overflow-wrap:anywhere}
table.list{min-width:100%}table.list td,table.list th{white-space:nowrap}
table.list th{white-space:normal;vertical-align:bottom}table.list .n{text-align:right}
table.list td:first-child,table.list th:first-child{position:sticky;left:0;background:var(--paper)}
.scroll{overflow-x:auto;margin:0 0 1rem}
.bar{display:block;min-width:3rem}
.bar span{display:block;height:.8rem;margin-top:.3rem;background:var(--accent);border-radius:2px;min-width:1px}
a{color:var(--accent)}.best{color:var(--mark);font-weight:600}
pre{overflow-x:auto;font-size:.8rem;line-height:1.35;border:1px solid var(--line);padding:.6rem}
svg{display:block;overflow:visible}.cells rect{shape-rendering:crispEdges}svg text{fill:currentColor;font-size:11px}
.plot{width:100%;height:auto}.plot .axis{stroke:var(--soft);fill:none}.plot .grid{stroke:var(--line)}
.plot .halo{paint-order:stroke;stroke:var(--paper);stroke-width:3px}.plot .lead{stroke:var(--soft);stroke-width:.7}
.plot .front{stroke:var(--mark);fill:none;stroke-dasharray:2 3;stroke-width:1.5}
.plot .full{stroke:var(--soft);stroke-dasharray:6 4}
.wide{max-width:47rem}.narrow{max-width:27rem;display:none}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;font-size:.85rem;margin:.4rem 0 1rem;padding:0;list-style:none}
.legend li{display:flex;align-items:center;gap:.4rem}
.heat{display:flex;align-items:flex-start}.heat .names{flex:none}.heat .cells{flex:1;min-width:0}
.scale{display:flex;align-items:center;gap:.5rem;font-size:.8rem;flex-wrap:wrap;margin:.5rem 0 1rem}
.scale i{width:9rem;height:.8rem;display:block;border-radius:2px}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));gap:1.6rem 1.8rem}
.tiles section{min-width:0;break-inside:avoid}
summary{cursor:pointer;color:var(--soft);font-size:.875rem;margin:.3rem 0}
@media (max-width:36rem){body{padding:.75rem;font-size:15px}.wide{display:none}.narrow{display:block}
table.facts th{width:7.5rem}th,td{padding:.3rem .4rem}
table.list td:first-child{min-width:9rem;white-space:normal;overflow-wrap:anywhere}}
@media print{@page{margin:14mm}:root{--ink:#000;--soft:#444;--line:#bbb;--paper:#fff;--accent:#3b76b8;--mark:#8a4a00}
body{max-width:none;padding:0;font-size:10pt}.scroll{overflow:visible}h2,h3{break-after:avoid}tr{break-inside:avoid}
.tiles{grid-template-columns:1fr 1fr}table.list{font-size:7.5pt}th,td{padding:.15rem .3rem}a{color:inherit;text-decoration:none}
pre{white-space:pre-wrap;overflow-wrap:anywhere}details::details-content{content-visibility:visible;block-size:auto}}
)css";

}  // namespace

std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '&':
        result += "&amp;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

std::string html_page(std::string_view title, std::string_view body) {
  const std::string name = escaped(title);
  return fmt::format(
      "<!doctype html>\n<html lang=en><head><meta charset=utf-8>\n"
      "<meta name=viewport content=\"width=device-width,initial-scale=1\">\n"
      "<title>{}</title>\n<style>{}</style></head><body>\n<h1>{}</h1>\n{}</body></html>\n",
      name, kStyle, name, body);
}

void FactTable::add(std::string_view name, std::string_view value) {
  rows_ += fmt::format("<tr><th>{}</th><td>{}</td></tr>\n", escaped(name), escaped(value));
}

std::string FactTable::html() const {
  return "<table class=facts>\n" + rows_ + "</table>\n";
}

Table::Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

void Table::add(const std::vector<std::string>& cells) {
  ensure(cells.size() == columns_.size(), "a cell for every column");
  rows_ += "<tr>";
  for (std::size_t i = 0; i < cells.size(); ++i) {
    rows_ += columns_[i].align == Align::number ? "<td class=n>" : "<td>";
    rows_ += cells[i] + "</td>";
  }
  rows_ += "</tr>\n";
}

std::string Table::html() const {
  std::string head;
  for (const Column& column : columns_) {
    head += column.align == Align::number ? "<th class=n>" : "<th>";
    head += escaped(column.title) + "</th>";
  }
  return fmt::format(
      "<div class=scroll><table class=list><thead><tr>{}</tr></thead><tbody>\n{}</tbody></table>"
      "</div>\n",
      head, rows_);
}

std::string share_bar(double share) {
  return fmt::format("<span class=bar><span style=\"width:{:.1f}%\"></span></span>",
                     100.0 * std::clamp(share, 0.0, 1.0));
}

std::string bytes_text(double bytes) {
  constexpr std::array<const char*, 4> kUnits = {"kB", "MB", "GB", "TB"};
  double value = bytes / 1e3;
  std::size_t unit = 0;
  for (; value >= 1000.0 && unit + 1 < kUnits.size(); ++unit) value /= 1e3;
  return fmt::format("{:.2f} {}", value, kUnits[unit]);
}

std::string seconds_text(double seconds) {
  if (seconds < 59.95) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
}

}  // namespace quern
