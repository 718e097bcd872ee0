#include "pipeline/report/prediction_view.h"

#include <fmt/format.h>

#include "pipeline/report/page.h"

namespace quern {
namespace {

using nlohmann::json;

std::string amount_text(const json& row, const char* key) {
  const auto amount = row.at(key).get<double>();
  return row.at("unit") == "s" ? seconds_text(amount) : bytes_text(amount);
}

/// By how much the prediction is above what was measured.
std::string deviation_text(const json& row) {
  const auto measured = row.at("measured").get<double>();
  if (measured <= 0) return "-";
  return fmt::format("{:+.0f} %", 100.0 * (row.at("predicted").get<double>() / measured - 1.0));
}

}  // namespace

std::string prediction_line(const json& prediction) {
  if (prediction.is_null()) return {};
  std::string text = prediction.at("note");
  for (const json& row : prediction.at("totals")) {
    text += fmt::format("{}{} {} ({})", text.empty() ? "" : ", ", row.at("name").get<std::string>(),
                        amount_text(row, "predicted"), deviation_text(row));
  }
  return text;
}

std::string prediction_section(const json& prediction) {
  if (prediction.is_null()) return {};
  const std::string head = "<h2>Predicted and measured</h2>\n";
  if (prediction.at("totals").empty()) {
    return head + fmt::format("<p>{}</p>\n", escaped(prediction.at("note").get<std::string>()));
  }
  Table table({{"", Table::Align::text}, {"Predicted"}, {"Measured"}, {"Deviation"}});
  for (const char* part : {"totals", "stages"}) {
    for (const json& row : prediction.at(part)) {
      table.add({escaped(row.at("name").get<std::string>()), amount_text(row, "predicted"),
                 amount_text(row, "measured"), deviation_text(row)});
    }
  }
  return head + table.html();
}

}  // namespace quern
