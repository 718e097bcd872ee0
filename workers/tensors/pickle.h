#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/core/dtype.h"
#include "workers/tensors/tensor_file.h"

namespace quern {

/// A tensor as a pickle describes it: a view of a storage, which only the file can check.
struct PickledTensor {
  DType dtype = DType::f32;
  std::string storage;             ///< key: the storage is the entry "data/<key>"
  std::int64_t storage_elems = 0;  ///< not negative
  std::int64_t offset = 0;         ///< elements, not negative
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;  ///< elements, as many as dimensions
};

/// What a checkpoint's dict holds. Values that are neither tensors nor whole numbers are left out.
struct PickledState {
  std::map<std::string, PickledTensor> tensors;
  std::map<std::string, std::int64_t> scalars;
};

/// Interprets a pickle of protocol 2 to 5 as torch.save writes it of a dict of tensors. Only what
/// tensors need may be named; any other global is refused by its name, and nothing is ever
/// executed. Work and memory are linear in the pickle's size. Throws InputError, beginning with
/// `origin`, that says at which byte.
PickledState read_pickle(std::span<const std::byte> pickle, std::string_view origin);

/// A pickle, protocol 2, of a dict: tensor i is all of storage "<i>", and the scalars follow.
/// Types without a storage of their own in PyTorch are an InternalError.
std::string format_pickle(std::span<const TensorSpec> specs, std::span<const NamedScalar> scalars);

}  // namespace quern
