#include "workers/tensors/pickle_globals.h"

#include <algorithm>
#include <array>

namespace quern {
namespace {

constexpr std::array kAllowed = {
    PickleGlobal{"collections", "OrderedDict", PickleRole::ordered_dict},
    PickleGlobal{"torch._utils", "_rebuild_tensor_v2", PickleRole::rebuild_tensor},
    PickleGlobal{"torch._utils", "_rebuild_parameter", PickleRole::rebuild_parameter},
    PickleGlobal{"torch", "DoubleStorage", PickleRole::storage, DType::f64},
    PickleGlobal{"torch", "FloatStorage", PickleRole::storage, DType::f32},
    PickleGlobal{"torch", "HalfStorage", PickleRole::storage, DType::f16},
    PickleGlobal{"torch", "BFloat16Storage", PickleRole::storage, DType::bf16},
    PickleGlobal{"torch", "LongStorage", PickleRole::storage, DType::i64},
    PickleGlobal{"torch", "IntStorage", PickleRole::storage, DType::i32},
    PickleGlobal{"torch", "ShortStorage", PickleRole::storage, DType::i16},
    PickleGlobal{"torch", "CharStorage", PickleRole::storage, DType::i8},
    PickleGlobal{"torch", "ByteStorage", PickleRole::storage, DType::u8},
    PickleGlobal{"torch", "BoolStorage", PickleRole::storage, DType::boolean},
};

}  // namespace

const PickleGlobal* find_pickle_global(std::string_view module, std::string_view name) {
  const auto* found = std::ranges::find_if(
      kAllowed, [&](const PickleGlobal& row) { return row.module == module && row.name == name; });
  return found == kAllowed.end() ? nullptr : &*found;
}

const PickleGlobal* find_pickle_storage(DType dtype) {
  const auto* found = std::ranges::find_if(kAllowed, [&](const PickleGlobal& row) {
    return row.role == PickleRole::storage && row.dtype == dtype;
  });
  return found == kAllowed.end() ? nullptr : &*found;
}

}  // namespace quern
