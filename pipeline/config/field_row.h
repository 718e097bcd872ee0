#pragma once

#include <string_view>
#include <utility>

#include "pipeline/config/codec.h"
#include "pipeline/config/fields.h"

namespace quern {

/// What a row of a field table says beside key, type and description.
struct Traits {
  Need need = Need::optional;
  bool identity = false;
  MethodSet methods = MethodSet();
};
inline constexpr Traits kFree{};
inline constexpr Traits kNeeded{.need = Need::always};
inline constexpr Traits kWithSection{.need = Need::with_section};
inline constexpr Traits kIdentity{.identity = true};

/// access(owner) is a reference to the member that holds the value.
template <typename Owner, typename Access>
Field<Owner> row(std::string_view key, ValueTypePtr type, std::string_view description,
                 const Traits& traits, Access access) {
  return {.key = key,
          .type = std::move(type),
          .description = description,
          .need = traits.need,
          .identity = traits.identity,
          .methods = traits.methods,
          .value = [access](const Owner& owner) { return encode(access(owner)); },
          .assign = [access](Owner& owner,
                             const nlohmann::json& value) { decode(value, access(owner)); }};
}

/// The same key, unset while its value is empty text or an empty list.
template <typename Owner>
Field<Owner> unset_if_empty(Field<Owner> field) {
  field.value = [value = std::move(field.value)](const Owner& owner) {
    nlohmann::json held = value(owner);
    return held.empty() || held == "" ? nlohmann::json() : held;
  };
  field.assign = [assign = std::move(field.assign)](Owner& owner, const nlohmann::json& value) {
    if (!value.is_null()) assign(owner, value);
  };
  return field;
}

}  // namespace quern
