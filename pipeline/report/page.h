#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quern {

/// Text as HTML or SVG content, or as an attribute in double quotes.
std::string escaped(std::string_view text);

/// A self-contained page without scripts: light and dark, for phones, screens and paper.
/// `body` is HTML; the title becomes its heading.
std::string html_page(std::string_view title, std::string_view body);

/// A list of names and values, such as the overview of a report.
class FactTable {
 public:
  void add(std::string_view name, std::string_view value);
  std::string html() const;

 private:
  std::string rows_;
};

/// A table that scrolls inside its own box where it is wider than the screen; the first column
/// stays in view.
class Table {
 public:
  enum class Align : std::uint8_t { text, number };
  struct Column {
    std::string_view title;
    Align align = Align::number;
  };
  explicit Table(std::vector<Column> columns);

  /// `cells` is HTML, as many as columns.
  void add(const std::vector<std::string>& cells);
  std::string html() const;

 private:
  std::vector<Column> columns_;
  std::string rows_;
};

/// A horizontal bar of a share in [0, 1] of the width it stands in.
std::string share_bar(double share);

/// "1.23 MB", "4.56 GB".
std::string bytes_text(double bytes);
/// "12.3 s", "4 min 05 s", "2 h 03 min".
std::string seconds_text(double seconds);

}  // namespace quern
