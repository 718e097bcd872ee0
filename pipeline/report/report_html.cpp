#include "pipeline/report/report_html.h"

#include <fmt/format.h>

#include "pipeline/report/module_views.h"
#include "pipeline/report/page.h"
#include "pipeline/report/prediction_view.h"

namespace quern {
namespace {

using nlohmann::json;

std::string text_at(const json& object, const char* key) {
  return object.at(key).get<std::string>();
}

std::string perplexity_text(const json& value) {
  return value.is_null()
             ? "not evaluated"
             : fmt::format("{:.4f} ({} windows, {} tokens)", value.at("perplexity").get<double>(),
                           value.at("windows").get<std::int64_t>(),
                           value.at("tokens").get<std::int64_t>());
}

std::string overview(const json& report) {
  const json& output = report.at("output");
  const json& memory = report.at("memory");
  const auto ranks = report.at("ranks").get<int>();
  FactTable facts;
  facts.add("Model", text_at(report.at("model"), "path"));
  facts.add("Output", text_at(output, "path"));
  facts.add("Size", fmt::format("{:.2f} MB, {:.3f} bits per quantized weight",
                                output.at("bytes").get<double>() / 1e6,
                                output.at("bits_per_quantized_weight").get<double>()));
  facts.add("Perplexity before", perplexity_text(report.at("perplexity").at("before")));
  facts.add("Perplexity after", perplexity_text(report.at("perplexity").at("after")));
  facts.add("Verification", report.at("verify").at("passed").get<bool>() ? "passed" : "FAILED");
  facts.add("Time", fmt::format("{} on {} rank{}", seconds_text(report.at("seconds").get<double>()),
                                ranks, ranks == 1 ? "" : "s"));
  facts.add("Peak memory per rank",
            fmt::format("{:.1f} MB measured, {:.1f} MB predicted for data",
                        memory.at("peak_rank_bytes").get<double>() / 1e6,
                        memory.at("predicted_rank_bytes").get<double>() / 1e6));
  if (memory.contains("peak_device_bytes") && !memory.at("peak_device_bytes").is_null()) {
    facts.add("Peak device memory per rank",
              bytes_text(memory.at("peak_device_bytes").get<double>()));
  }
  facts.add("Numerics", text_at(report, "numerics"));
  return facts.html();
}

std::string error_section(const json& modules) {
  const HeatMap map = error_map(modules);
  const ColourRange range = range_of(map);
  return "<h2>Error by layer and module</h2>\n"
         "<p class=soft>Squared error over squared weights, both weighted by what the method "
         "measured.</p>\n" +
         heat_map_html(map, range) + colour_legend(range, "Relative error");
}

}  // namespace

std::string report_html(const json& report) {
  std::string body = overview(report);
  for (const json& warning : report.at("warnings")) {
    body +=
        fmt::format("<p><strong>Warning:</strong> {}</p>\n", escaped(warning.get<std::string>()));
  }
  body += error_section(report.at("modules"));
  body += prediction_section(report.value("prediction", json()));
  body += "<h2>Time per stage</h2>\n" + stage_table(report.at("stages"));
  if (const std::string layers = layer_table(report.at("layers")); !layers.empty()) {
    body += "<h2>Time per layer</h2>\n<p class=soft>Milliseconds on rank 0.</p>\n" + layers;
  }
  body += "<h2>Modules</h2>\n" + module_table(report.at("modules"));
  body +=
      fmt::format("<h2>Configuration</h2>\n<pre>{}</pre>\n", escaped(report.at("config").dump(2)));
  return html_page(text_at(report, "tool"), body);
}

}  // namespace quern
