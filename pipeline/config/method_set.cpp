#include "pipeline/config/method_set.h"

#include <vector>

#include "pipeline/config/enum_names.h"
#include "pipeline/config/suggest.h"

namespace quern {

static_assert(kNames<Method>.size() == 3, "a new method needs a bit in MethodSet::kAll");

std::string MethodSet::names() const {
  std::vector<std::string_view> found;
  for (const std::string_view name : kNames<Method>) {
    if (contains(*parse_name<Method>(name))) found.push_back(name);
  }
  return joined(found, " or ");
}

}  // namespace quern
