#include "pipeline/config/nested_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <regex>

#include "pipeline/config/field_row.h"
#include "pipeline/config/mapping.h"

namespace quern {
namespace {

constexpr std::size_t kMaxEntries = 1000;
constexpr double kMaxSparsity = 0.5;
constexpr double kSensitive = 0.0005;  // the share SqueezeLLM keeps by sensitivity
constexpr Traits kOnGrid{.methods = {Method::rtn, Method::gptq}};
constexpr Traits kOfTables{.methods = {Method::squeezellm}};

template <typename Owner>
nlohmann::json read_fields(const YamlNode& node, const std::string& key,
                           const std::vector<Field<Owner>>& fields) {
  std::vector<MappingKey> keys;
  for (const Field<Owner>& field : fields) {
    keys.push_back({field.key, field.type.get(), field.need != Need::optional});
  }
  return read_mapping(node, key, keys, [](std::string_view) { return std::string(); });
}

template <typename Owner>
nlohmann::json fields_schema(const std::vector<Field<Owner>>& fields) {
  nlohmann::json properties = nlohmann::json::object();
  nlohmann::json required = nlohmann::json::array();
  for (const Field<Owner>& field : fields) {
    properties[field.key] = field.type->schema();
    properties[field.key]["description"] = field.description;
    if (field.need != Need::optional) required.push_back(field.key);
  }
  nlohmann::json schema = {
      {"type", "object"}, {"properties", properties}, {"additionalProperties", false}};
  if (!required.empty()) schema["required"] = required;
  return schema;
}

template <typename Owner>
void assign_fields(const nlohmann::json& json, Owner& owner,
                   const std::vector<Field<Owner>>& fields) {
  for (const Field<Owner>& field : fields) {
    if (json.contains(field.key)) field.assign(owner, json[field.key]);
  }
}

/// A list of mappings with the keys of a field table.
template <typename Owner>
class MappingsType final : public ValueType {
 public:
  using FieldTable = const std::vector<Field<Owner>>& (*)();
  struct Words {
    std::string_view noun;     ///< what the entries are
    std::string_view example;  ///< of a line
  };
  MappingsType(FieldTable fields, const Words& words) : fields_(fields), words_(words) {}

  nlohmann::json read(const YamlNode& node, const std::string& key) const override {
    if (node.kind != YamlNode::Kind::sequence || node.items.size() > kMaxEntries) {
      fail(node.place, key, fmt::format("the value is {}", node.description()), expectation(),
           fmt::format("write lines '- {}'", words_.example));
    }
    nlohmann::json list = nlohmann::json::array();
    for (std::size_t i = 0; i < node.items.size(); ++i) {
      list.push_back(read_fields(node.items[i], fmt::format("{}[{}]", key, i), fields_()));
    }
    return list;
  }
  std::string expectation() const override {
    return fmt::format("a list of at most {} {}", kMaxEntries, words_.noun);
  }
  nlohmann::json schema() const override {
    return {{"type", "array"}, {"items", fields_schema(fields_())}, {"maxItems", kMaxEntries}};
  }

 private:
  FieldTable fields_;
  Words words_;
};

class SparsityType final : public ValueType {
 public:
  nlohmann::json read(const YamlNode& node, const std::string& key) const override {
    Sparsity sparsity;
    if (node.kind == YamlNode::Kind::mapping) {
      decode(read_fields(node, key, sparsity_fields()), sparsity);
      check(sparsity, node, key);
    } else if (node.kind == YamlNode::Kind::scalar) {
      const double total = total_->read(node, key).get<double>();
      sparsity.sensitive = std::min(total, kSensitive);
      // The rest as its decimal digits say, not with the rounding of the subtraction.
      sparsity.magnitude = std::round((total - sparsity.sensitive) * 1e12) / 1e12;
    } else {
      fail(node.place, key, fmt::format("the value is {}", node.description()), expectation(),
           "write 0.0045, or {sensitive: 0.0005, magnitude: 0.004}");
    }
    return encode(sparsity);
  }
  std::string expectation() const override {
    return fmt::format("{}, or a mapping with sensitive, magnitude, rule and budget",
                       total_->expectation());
  }
  nlohmann::json schema() const override {
    return {{"anyOf", nlohmann::json::array({total_->schema(), fields_schema(sparsity_fields())})}};
  }

 private:
  static void check(const Sparsity& sparsity, const YamlNode& node, const std::string& key) {
    if (sparsity.total() > kMaxSparsity) {
      fail(node.place, key,
           fmt::format("sensitive and magnitude are {} together", sparsity.total()),
           fmt::format("at most {}", kMaxSparsity), "lower one of them");
    }
    if (sparsity.rule == OutlierSelection::joint || sparsity.budget == OutlierBudget::module)
      return;
    fail(node.find("budget")->place, key + ".budget", "no effect on rule paper",
         "rule joint, or budget module", "remove it or choose rule joint");
  }

  ValueTypePtr total_ = real_from(0, kMaxSparsity);
};

}  // namespace

const std::vector<Field<QuantizeRule>>& rule_fields() {
  using Rule = QuantizeRule;
  static const std::vector<Field<Rule>> all{
      row<Rule>(
          "match", pattern(), "Regular expression for the whole name, without '.weight'", kNeeded,
          [](auto& rule) -> auto& { return rule.match; }),
      row<Rule>(
          "bits", integer(2, 8), "Bits of a code", kFree,
          [](auto& rule) -> auto& { return rule.bits; }),
      row<Rule>(
          "group_size", group_size(), "Columns that share a scale; -1: the whole row", kOnGrid,
          [](auto& rule) -> auto& { return rule.group_size; }),
      row<Rule>(
          "symmetric", boolean(), "Grid centred on zero", kOnGrid,
          [](auto& rule) -> auto& { return rule.symmetric; }),
      row<Rule>(
          "skip", boolean(), "Leave the module as it is", kFree,
          [](auto& rule) -> auto& { return rule.skip; })};
  return all;
}

const std::vector<Field<Sparsity>>& sparsity_fields() {
  static const std::vector<Field<Sparsity>> all{
      row<Sparsity>(
          "sensitive", real_from(0, kMaxSparsity), "Fraction kept by its effect on the loss", kFree,
          [](auto& sparsity) -> auto& { return sparsity.sensitive; }),
      row<Sparsity>(
          "magnitude", real_from(0, kMaxSparsity), "Fraction kept for lying far from the others",
          kFree, [](auto& sparsity) -> auto& { return sparsity.magnitude; }),
      row<Sparsity>(
          "rule", choice(kNames<OutlierSelection>),
          "Choose as the paper does, or together with the table (joint), the sum of both fractions",
          kFree, [](auto& sparsity) -> auto& { return sparsity.rule; }),
      row<Sparsity>(
          "budget", choice(kNames<OutlierBudget>),
          "With rule joint: the fraction is of each module, or of the whole model", kFree,
          [](auto& sparsity) -> auto& { return sparsity.budget; })};
  return all;
}

const std::vector<Field<SweepPoint>>& point_fields() {
  using Point = SweepPoint;
  static const std::vector<Field<Point>> all{
      row<Point>(
          "method", choice(kNames<Method>), "As quantize.method", kFree,
          [](auto& point) -> auto& { return point.method; }),
      row<Point>(
          "bits", integer(2, 8), "As quantize.bits", kFree,
          [](auto& point) -> auto& { return point.bits; }),
      row<Point>(
          "group_size", group_size(), "As quantize.group_size", kOnGrid,
          [](auto& point) -> auto& { return point.group_size; }),
      row<Point>(
          "sparsity", sparsity(), "As quantize.sparsity", kOfTables,
          [](auto& point) -> auto& { return point.sparsity; })};
  return all;
}

ValueTypePtr rules() {
  return std::make_shared<MappingsType<QuantizeRule>>(
      rule_fields, MappingsType<QuantizeRule>::Words{"rules", "{match: ..., bits: ...}"});
}

ValueTypePtr sparsity() {
  return std::make_shared<SparsityType>();
}

ValueTypePtr points() {
  return std::make_shared<MappingsType<SweepPoint>>(
      point_fields, MappingsType<SweepPoint>::Words{"points", "{method: ..., bits: ...}"});
}

nlohmann::json encode(const QuantizeRule& rule) {
  return values_of(rule, rule_fields());
}

nlohmann::json encode(const Sparsity& sparsity) {
  return values_of(sparsity, sparsity_fields());
}

nlohmann::json encode(const SweepPoint& point) {
  return values_of(point, point_fields());
}

void decode(const nlohmann::json& json, QuantizeRule& rule) {
  assign_fields(json, rule, rule_fields());
  rule.expression = std::regex(rule.match, std::regex::ECMAScript);
}

void decode(const nlohmann::json& json, Sparsity& sparsity) {
  assign_fields(json, sparsity, sparsity_fields());
}

void decode(const nlohmann::json& json, SweepPoint& point) {
  assign_fields(json, point, point_fields());
}

}  // namespace quern
