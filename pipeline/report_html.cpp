#include <fmt/format.h>

#include "pipeline/report.h"

namespace quern {
namespace {

constexpr const char* kStyle = R"css(
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .5rem;border-bottom:1px solid #8884;text-align:left}
td.n,th.n{text-align:right}
.scroll{overflow-x:auto}
.bar{display:inline-block;height:.7em;background:#4a7dbd}
@media print{body{max-width:none}.scroll{overflow:visible}}
)css";

std::string escaped(const std::string& text) {
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

std::string row(const std::string& name, const std::string& value) {
  return fmt::format("<tr><th>{}</th><td>{}</td></tr>\n", escaped(name), escaped(value));
}

std::string perplexity_text(const nlohmann::json& value) {
  return value.is_null()
             ? "not evaluated"
             : fmt::format("{:.4f} ({} windows, {} tokens)", value.at("perplexity").get<double>(),
                           value.at("windows").get<std::int64_t>(),
                           value.at("tokens").get<std::int64_t>());
}

std::string overview(const nlohmann::json& report) {
  const auto& output = report.at("output");
  const auto& memory = report.at("memory");
  const auto& verify = report.at("verify");
  std::string html = "<table>\n";
  html += row("Model", report.at("model").at("path"));
  html += row("Output", output.at("path"));
  html += row("Size", fmt::format("{:.2f} MB, {:.3f} bits per quantized weight",
                                  output.at("bytes").get<double>() / 1e6,
                                  output.at("bits_per_quantized_weight").get<double>()));
  html += row("Perplexity before", perplexity_text(report.at("perplexity").at("before")));
  html += row("Perplexity after", perplexity_text(report.at("perplexity").at("after")));
  html += row("Verification", verify.at("passed").get<bool>() ? "passed" : "FAILED");
  html += row("Time", fmt::format("{:.1f} s on {} ranks", report.at("seconds").get<double>(),
                                  report.at("ranks").get<int>()));
  html += row("Peak memory per rank",
              fmt::format("{:.1f} MB measured, {:.1f} MB predicted for data",
                          memory.at("peak_rank_bytes").get<double>() / 1e6,
                          memory.at("predicted_rank_bytes").get<double>() / 1e6));
  html += row("Numerics", report.at("numerics"));
  return html + "</table>\n";
}

std::string stage_table(const nlohmann::json& report) {
  std::string html =
      "<table><tr><th>Stage</th><th class=n>Seconds</th><th class=n>Share</th>"
      "<th></th></tr>\n";
  for (const auto& stage : report.at("stages")) {
    const auto share = stage.at("share").get<double>();
    html += fmt::format(
        "<tr><td>{}</td><td class=n>{:.2f}</td><td class=n>{:.1f} %</td>"
        "<td><span class=bar style=\"width:{:.1f}rem\"></span></td></tr>\n",
        escaped(stage.at("stage")), stage.at("seconds").get<double>(), 100.0 * share, 12.0 * share);
  }
  return html + "</table>\n";
}

std::string module_table(const nlohmann::json& report) {
  std::string html =
      "<div class=scroll><table><tr><th>Module</th><th class=n>Shape</th>"
      "<th class=n>Bits</th><th class=n>Group</th><th class=n>Relative error</th>"
      "<th class=n>Damping</th><th class=n>Dead inputs</th></tr>\n";
  for (const auto& module : report.at("modules")) {
    html += fmt::format(
        "<tr><td>{}</td><td class=n>{} x {}</td><td class=n>{}</td>"
        "<td class=n>{}</td><td class=n>{:.3e}</td><td class=n>{:g}</td>"
        "<td class=n>{}</td></tr>\n",
        escaped(module.at("name")), module.at("out_features").get<std::int64_t>(),
        module.at("in_features").get<std::int64_t>(), module.at("bits").get<int>(),
        module.at("group_size").get<std::int64_t>(), module.at("relative_error").get<double>(),
        module.at("damping_fraction").get<double>(), module.at("dead_columns").get<std::int64_t>());
  }
  return html + "</table></div>\n";
}

}  // namespace

std::string report_html(const nlohmann::json& report) {
  std::string html = fmt::format(
      "<!doctype html>\n<html lang=en><head><meta charset=utf-8>\n"
      "<meta name=viewport content=\"width=device-width,initial-scale=1\">\n"
      "<title>Quern report</title>\n<style>{}</style></head><body>\n<h1>{}</h1>\n",
      kStyle, escaped(report.at("tool")));
  html += overview(report);
  for (const auto& warning : report.at("warnings")) {
    html += fmt::format("<p><strong>Warning:</strong> {}</p>\n", escaped(warning));
  }
  html += "<h2>Time per stage</h2>\n" + stage_table(report);
  html += "<h2>Modules</h2>\n" + module_table(report);
  html +=
      fmt::format("<h2>Configuration</h2>\n<pre>{}</pre>\n", escaped(report.at("config").dump(2)));
  return html + "</body></html>\n";
}

}  // namespace quern
