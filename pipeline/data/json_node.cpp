#include "pipeline/data/json_node.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/core/error.h"

namespace quern {

JsonNode JsonNode::at(std::string_view key) const {
  if (auto member = find(key)) return *member;
  refuse(fmt::format("\"{}\" is missing", key));
}

std::optional<JsonNode> JsonNode::find(std::string_view key) const {
  require_object();
  const auto member = value_->find(key);
  if (member == value_->end() || member->is_null()) return std::nullopt;
  std::string path = path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
  return JsonNode(*member, file_, std::move(path));
}

JsonNode JsonNode::at(std::size_t index) const {
  require_array();
  if (index >= value_->size()) refuse(fmt::format("element {} is missing", index));
  return JsonNode((*value_)[index], file_, fmt::format("{}[{}]", path_, index));
}

const std::string& JsonNode::string() const {
  if (!value_->is_string()) refuse(fmt::format("expected a string, found {}", value_->type_name()));
  return value_->get_ref<const std::string&>();
}

std::int64_t JsonNode::integer() const {
  const bool fits = value_->is_number_integer() &&
                    (!value_->is_number_unsigned() || value_->get<std::uint64_t>() <= INT64_MAX);
  if (!fits) refuse(fmt::format("expected an integer, found {}", value_->dump()));
  return value_->get<std::int64_t>();
}

bool JsonNode::boolean() const {
  if (!value_->is_boolean()) {
    refuse(fmt::format("expected true or false, found {}", value_->type_name()));
  }
  return value_->get<bool>();
}

bool JsonNode::boolean(std::string_view key, bool absent) const {
  const auto member = find(key);
  return member ? member->boolean() : absent;
}

void JsonNode::require_array() const {
  if (!value_->is_array()) refuse(fmt::format("expected an array, found {}", value_->type_name()));
}

void JsonNode::require_object() const {
  if (!value_->is_object()) {
    refuse(fmt::format("expected an object, found {}", value_->type_name()));
  }
}

void JsonNode::allow_only(std::initializer_list<std::string_view> known) const {
  require_object();
  for (const auto& [key, member] : value_->items()) {
    if (!member.is_null() && std::find(known.begin(), known.end(), key) == known.end()) {
      refuse(fmt::format("\"{}\" is not known, and it might change the tokens", key));
    }
  }
}

void JsonNode::refuse(std::string_view reason) const {
  throw InputError(path_.empty() ? fmt::format("{}: {}", *file_, reason)
                                 : fmt::format("{}: {}: {}", *file_, path_, reason));
}

}  // namespace quern
