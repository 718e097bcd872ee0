#pragma once

#include <cstdint>
#include <string_view>

#include "kernels/core/dtype.h"

namespace quern {

/// What a global that a pickle may name stands for.
enum class PickleRole : std::uint8_t { ordered_dict, rebuild_tensor, rebuild_parameter, storage };

struct PickleGlobal {
  std::string_view module;
  std::string_view name;
  PickleRole role = PickleRole::storage;
  DType dtype = DType::f32;  ///< of a storage
};

/// The allow-list's row of a global; null where it is not allowed.
const PickleGlobal* find_pickle_global(std::string_view module, std::string_view name);

/// The storage class of a type; null where PyTorch has none.
const PickleGlobal* find_pickle_storage(DType dtype);

}  // namespace quern
