#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string_view>
#include <vector>

#include "workers/tensors/pickle_globals.h"

namespace quern {

enum class PickleKind : std::uint8_t {
  none,
  boolean,
  integer,
  real,  ///< its value is not kept
  text,
  tuple,
  list,
  dict,
  global,
  call,       ///< items: a global and a tuple of arguments
  persistent  ///< items: what the persistent id is
};

/// "a tuple": for messages.
std::string_view kind_name(PickleKind kind) noexcept;

using PickleId = std::uint32_t;

/// Values refer to each other by number, so that no depth of nesting and no circle can hurt.
struct PickleValue {
  PickleKind kind = PickleKind::none;
  std::int64_t integer = 0;  ///< also of bools
  const PickleGlobal* global = nullptr;
  std::string_view text{};        ///< in the pickle
  std::vector<PickleId> items{};  ///< of dicts: key, value, key, value ...
};

struct PickleGraph {
  std::deque<PickleValue> values;
  PickleId root = 0;
};

/// Values of a pickle of protocol 2 to 5, which must outlive them. Globals that are not in the
/// allow-list are refused by name; calls are noted, not made. Work and memory are linear in the
/// size of the pickle. Throws InputError "<origin>: at byte <n>: ...".
PickleGraph run_pickle(std::span<const std::byte> pickle, std::string_view origin);

}  // namespace quern
