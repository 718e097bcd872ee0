#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>
#include <vector>

#include "pipeline/config/method_set.h"
#include "pipeline/config/run_config.h"
#include "pipeline/config/values.h"

namespace quern {

/// When a key must be given.
enum class Need : std::uint8_t {
  optional,
  with_section,  ///< if any key of its section is
  always
};

/// One key: how it is read, described and printed, and where its value lives in an Owner.
template <typename Owner>
struct Field {
  std::string_view key;  ///< "quantize.bits"; of a rule just "bits"
  ValueTypePtr type;
  std::string_view description;
  Need need = Need::optional;
  bool identity = false;                              ///< decides the bytes of statistics and codes
  MethodSet methods;                                  ///< that it has an effect on
  std::function<nlohmann::json(const Owner&)> value;  ///< canonical; null where unset
  std::function<void(Owner&, const nlohmann::json&)> assign;  ///< from the canonical form

  std::string_view section() const { return key.substr(0, key.find('.')); }
  std::string_view name() const { return key.substr(key.find('.') + 1); }
};

struct Section {
  std::string_view name;
  std::string_view description;
};

/// The sections of a run file, in the order they are written.
std::span<const Section> run_file_sections();

/// Every key of a run file, section by section. A new option is one row here; parsing, the key
/// listing, the schema and the resolved output follow.
const std::vector<Field<RunFile>>& run_file_fields();

/// The JSON object of what the fields hold, without unset ones.
template <typename Owner>
nlohmann::json values_of(const Owner& owner, const std::vector<Field<Owner>>& fields) {
  nlohmann::json object = nlohmann::json::object();
  for (const Field<Owner>& field : fields) {
    if (nlohmann::json value = field.value(owner); !value.is_null()) object[field.key] = value;
  }
  return object;
}

}  // namespace quern
