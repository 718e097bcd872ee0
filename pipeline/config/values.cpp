#include "pipeline/config/values.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "pipeline/config/rules.h"
#include "pipeline/config/suggest.h"

namespace quern {
namespace {

using nlohmann::json;

/// A digit string with an optional sign; not octal, hexadecimal or anything else YAML has known.
std::optional<std::int64_t> parse_integer(std::string_view digits) {
  const std::string_view body = digits.substr(digits.starts_with('-') ? 1 : 0);
  if (body.size() > 1 && body.front() == '0') return std::nullopt;
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return value;
}

bool looks_like_digits(std::string_view text) {
  if (text.starts_with('-')) text.remove_prefix(1);
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos &&
         (text.front() != '0' || text.size() == 1);
}

class BooleanType final : public ValueType {
 public:
  json read(const YamlNode& node, const std::string& key) const override {
    if (node.kind == YamlNode::Kind::scalar && node.plain) {
      if (node.scalar == "true") return true;
      if (node.scalar == "false") return false;
    }
    fail(node.place, key, fmt::format("{} is not a truth value", node.description()), expectation(),
         "write it in lower case, without quotes");
  }
  std::string expectation() const override { return "true or false"; }
  json schema() const override { return {{"type", "boolean"}}; }
};

class IntegerType final : public ValueType {
 public:
  struct Range {
    std::int64_t minimum;
    std::int64_t maximum;
    std::int64_t step = 1;
    std::optional<std::int64_t> besides;  ///< accepted although out of range
  };
  explicit IntegerType(const Range& range) : range_(range) {}

  json read(const YamlNode& node, const std::string& key) const override {
    if (node.kind != YamlNode::Kind::scalar || !node.plain || !looks_like_digits(node.scalar)) {
      fail(node.place, key, fmt::format("{} is not an integer", node.description()), expectation(),
           "write decimal digits without quotes");
    }
    const auto value = parse_integer(node.scalar);
    if (value && value == range_.besides) return *value;
    if (!value || *value < range_.minimum || *value > range_.maximum) {
      fail(node.place, key, fmt::format("{} is out of range", in_quotes(node.scalar)),
           expectation(), "choose a value in the range");
    }
    if (*value % range_.step != 0) {
      fail(node.place, key, fmt::format("{} is not a multiple of {}", *value, range_.step),
           expectation(), "choose a multiple");
    }
    return *value;
  }
  std::string expectation() const override {
    const std::string kind =
        range_.step == 1 ? std::string("an integer") : fmt::format("a multiple of {}", range_.step);
    const std::string text = fmt::format("{} from {} to {}", kind, range_.minimum, range_.maximum);
    return range_.besides ? fmt::format("{}, or {}", text, *range_.besides) : text;
  }
  json schema() const override {
    json range = {{"type", "integer"}, {"minimum", range_.minimum}, {"maximum", range_.maximum}};
    if (range_.step != 1) range["multipleOf"] = range_.step;
    if (!range_.besides) return range;
    return {{"anyOf", json::array({range, {{"const", *range_.besides}}})}};
  }

 private:
  Range range_;
};

class RealType final : public ValueType {
 public:
  struct Range {
    double minimum;
    double maximum;
    bool includes_minimum;
  };
  explicit RealType(const Range& range) : range_(range) {}

  json read(const YamlNode& node, const std::string& key) const override {
    const char* begin = node.scalar.data();
    const char* end = begin + node.scalar.size();
    const bool digits = !node.scalar.empty() &&
                        node.scalar.find_first_not_of("+-.0123456789eE") == std::string::npos;
    double value = 0;
    const auto parsed = std::from_chars(begin, end, value);
    const bool number = digits && parsed.ptr == end && parsed.ec != std::errc::invalid_argument;
    if (node.kind != YamlNode::Kind::scalar || !node.plain || !number) {
      fail(node.place, key, fmt::format("{} is not a number", node.description()), expectation(),
           "write it as 0.01 or 1e-2, without quotes");
    }
    const bool above =
        value > range_.minimum || (range_.includes_minimum && value == range_.minimum);
    if (parsed.ec != std::errc() || !above || value > range_.maximum) {
      fail(node.place, key, fmt::format("{} is out of range", in_quotes(node.scalar)),
           expectation(), "choose a value in the range");
    }
    return value;
  }
  std::string expectation() const override {
    return range_.includes_minimum
               ? fmt::format("a number from {} to {}", range_.minimum, range_.maximum)
               : fmt::format("a number above {} and up to {}", range_.minimum, range_.maximum);
  }
  json schema() const override {
    return {{"type", "number"},
            {range_.includes_minimum ? "minimum" : "exclusiveMinimum", range_.minimum},
            {"maximum", range_.maximum}};
  }

 private:
  Range range_;
};

class ChoiceType final : public ValueType {
 public:
  explicit ChoiceType(std::span<const std::string_view> names) : names_(names) {}

  json read(const YamlNode& node, const std::string& key) const override {
    if (node.kind == YamlNode::Kind::scalar &&
        std::find(names_.begin(), names_.end(), node.scalar) != names_.end()) {
      return node.scalar;
    }
    const std::string hint = node.kind == YamlNode::Kind::scalar
                                 ? did_you_mean(node.scalar, {names_.begin(), names_.end()})
                                 : std::string();
    fail(node.place, key, fmt::format("{} is not known here", node.description()), expectation(),
         hint.empty() ? "choose one of them" : hint);
  }
  std::string expectation() const override {
    return names_.size() == 1 ? std::string(names_.front())
                              : fmt::format("one of {}", joined(names_, ", "));
  }
  json schema() const override {
    return {{"type", "string"}, {"enum", std::vector<std::string>(names_.begin(), names_.end())}};
  }

 private:
  std::span<const std::string_view> names_;
};

class TextType : public ValueType {
 public:
  explicit TextType(std::string_view noun) : noun_(noun) {}

  json read(const YamlNode& node, const std::string& key) const override {
    const bool control = std::any_of(node.scalar.begin(), node.scalar.end(), [](char c) {
      return static_cast<unsigned char>(c) < 0x20 || c == 0x7F;
    });
    if (node.kind == YamlNode::Kind::scalar && !node.scalar.empty() && !control) return node.scalar;
    const std::string what = control ? "a control character in the text"
                             : node.scalar.empty() && node.kind == YamlNode::Kind::scalar
                                 ? "the text is empty"
                                 : fmt::format("the value is {}", node.description());
    fail(node.place, key, what, expectation(), "give a value, in quotes if it has special signs");
  }
  std::string expectation() const override { return std::string(noun_); }
  json schema() const override { return {{"type", "string"}, {"minLength", 1}}; }

 private:
  std::string_view noun_;
};

class PathType final : public TextType {
 public:
  PathType() : TextType("a path") {}

  json read(const YamlNode& node, const std::string& key) const override {
    json value = TextType::read(node, key);
    if (node.scalar.starts_with('~')) {
      fail(node.place, key, "'~' is not expanded here", expectation(), "write the whole path");
    }
    // A folder has siblings that are named after it.
    std::string& path = value.get_ref<std::string&>();
    while (path.size() > 1 && path.ends_with('/')) path.pop_back();
    return value;
  }
};

/// One item or a list of items, read as a list.
class ListType final : public ValueType {
 public:
  ListType(ValueTypePtr item, std::string_view noun) : item_(std::move(item)), noun_(noun) {}

  json read(const YamlNode& node, const std::string& key) const override {
    json list = json::array();
    if (node.kind == YamlNode::Kind::scalar) {
      list.push_back(item_->read(node, key));
    } else if (node.kind == YamlNode::Kind::sequence) {
      for (std::size_t i = 0; i < node.items.size(); ++i) {
        list.push_back(item_->read(node.items[i], fmt::format("{}[{}]", key, i)));
      }
    } else {
      fail(node.place, key, fmt::format("the value is {}", node.description()), expectation(),
           "write one, or [first, second]");
    }
    return list;
  }
  std::string expectation() const override {
    return fmt::format("{} or a list of {}", item_->expectation(), noun_);
  }
  json schema() const override {
    const json one = item_->schema();
    return {{"anyOf", json::array({one, {{"type", "array"}, {"items", one}}})}};
  }

 private:
  ValueTypePtr item_;
  std::string_view noun_;
};

class PatternType final : public TextType {
 public:
  PatternType() : TextType("a regular expression (ECMAScript) for whole module names") {}

  json read(const YamlNode& node, const std::string& key) const override {
    json value = TextType::read(node, key);
    if (const std::string complaint = match_complaint(node.scalar); !complaint.empty()) {
      fail(node.place, key, complaint, expectation(),
           "see the examples in configs/mixed-bits.yaml");
    }
    return value;
  }
};

struct Unit {
  std::string_view name;
  std::int64_t size;
};
constexpr std::array<Unit, 9> kByteUnits{{{"KB", 1'000},
                                          {"MB", 1'000'000},
                                          {"GB", 1'000'000'000},
                                          {"TB", 1'000'000'000'000},
                                          {"KiB", 1LL << 10},
                                          {"MiB", 1LL << 20},
                                          {"GiB", 1LL << 30},
                                          {"TiB", 1LL << 40},
                                          {"B", 1}}};
constexpr std::array<Unit, 3> kTimeUnits{{{"s", 1}, {"min", 60}, {"h", 3600}}};

/// A whole number of base units, with an optional unit behind it.
class QuantityType final : public ValueType {
 public:
  struct Range {
    std::int64_t minimum;
    std::int64_t maximum;
  };
  QuantityType(std::string_view noun, std::span<const Unit> units, const Range& range)
      : noun_(noun), units_(units), range_(range) {}

  json read(const YamlNode& node, const std::string& key) const override {
    const auto value = node.kind == YamlNode::Kind::scalar ? parse(node.scalar) : std::nullopt;
    if (!value) {
      fail(node.place, key, fmt::format("{} is not a number of {}", node.description(), noun_),
           expectation(), fmt::format("write a whole number and a unit: 5{}", units_[2].name));
    }
    if (*value < range_.minimum || *value > range_.maximum) {
      fail(node.place, key, fmt::format("{} is out of range", in_quotes(node.scalar)),
           expectation(), "choose a value in the range");
    }
    return *value;
  }
  std::string expectation() const override {
    return fmt::format("{} from {} to {}, with or without a unit ({})", noun_, range_.minimum,
                       range_.maximum, unit_names(", "));
  }
  json schema() const override {
    const json number = {
        {"type", "integer"}, {"minimum", range_.minimum}, {"maximum", range_.maximum}};
    const json with_unit = {{"type", "string"},
                            {"pattern", fmt::format("^[0-9]+ ?({})$", unit_names("|"))}};
    return {{"anyOf", json::array({number, with_unit})}};
  }

 private:
  std::string unit_names(std::string_view separator) const {
    std::vector<std::string_view> names;
    for (const Unit& unit : units_) names.push_back(unit.name);
    return joined(names, separator);
  }

  std::optional<std::int64_t> parse(std::string_view text) const {
    const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
    if (digits == 0) return std::nullopt;
    const auto count = parse_integer(text.substr(0, digits));
    std::string_view unit = text.substr(digits);
    if (!count || unit.empty()) return count;
    if (unit.starts_with(' ')) unit.remove_prefix(1);
    const auto found = std::find_if(units_.begin(), units_.end(),
                                    [&](const Unit& known) { return known.name == unit; });
    if (found == units_.end()) return std::nullopt;
    std::int64_t total = 0;
    // Saturates, so that a huge number is out of range instead of unreadable.
    return __builtin_mul_overflow(*count, found->size, &total) ? INT64_MAX : total;
  }

  std::string_view noun_;
  std::span<const Unit> units_;
  Range range_;
};

}  // namespace

ValueTypePtr boolean() {
  return std::make_shared<BooleanType>();
}

ValueTypePtr integer(std::int64_t minimum, std::int64_t maximum) {
  return std::make_shared<IntegerType>(IntegerType::Range{minimum, maximum, 1, std::nullopt});
}

ValueTypePtr group_size() {
  return std::make_shared<IntegerType>(IntegerType::Range{32, 1024, 32, -1});
}

ValueTypePtr real(double above, double maximum) {
  return std::make_shared<RealType>(RealType::Range{above, maximum, false});
}

ValueTypePtr real_from(double minimum, double maximum) {
  return std::make_shared<RealType>(RealType::Range{minimum, maximum, true});
}

ValueTypePtr choice(std::span<const std::string_view> names) {
  return std::make_shared<ChoiceType>(names);
}

ValueTypePtr text() {
  return std::make_shared<TextType>("text");
}

ValueTypePtr path() {
  return std::make_shared<PathType>();
}

ValueTypePtr list_of(ValueTypePtr item, std::string_view noun) {
  return std::make_shared<ListType>(std::move(item), noun);
}

ValueTypePtr paths() {
  return list_of(path(), "paths");
}

ValueTypePtr names() {
  return list_of(std::make_shared<TextType>("a name"), "names");
}

ValueTypePtr pattern() {
  return std::make_shared<PatternType>();
}

ValueTypePtr byte_size(std::int64_t minimum, std::int64_t maximum) {
  return std::make_shared<QuantityType>("bytes", kByteUnits, QuantityType::Range{minimum, maximum});
}

ValueTypePtr duration(std::int64_t minimum, std::int64_t maximum) {
  return std::make_shared<QuantityType>("seconds", kTimeUnits,
                                        QuantityType::Range{minimum, maximum});
}

}  // namespace quern
