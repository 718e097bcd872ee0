#include "kernels/core/error.h"

#include <fmt/format.h>

namespace quern {

void ensure(bool holds, const char* expectation, std::source_location where) {
  if (holds) return;
  throw InternalError(
      fmt::format("{}:{}: {}: expected {}; this is a bug in Quern, please report it",
                  where.file_name(), where.line(), where.function_name(), expectation));
}

}  // namespace quern
