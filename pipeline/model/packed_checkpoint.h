#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "pipeline/model/model_graph.h"
#include "workers/tensors/tensor_source.h"

namespace quern {

/// The module whose weight may be packed under other names than this one, "<module>.weight"; empty
/// for any other name.
std::string packed_module(std::string_view name);

TensorSpec spec_of(std::string name, const HostTensor& tensor);

/// Throws InputError unless the tensor has this type and shape.
void expect_tensor(const TensorSpec& tensor, DType dtype, const Shape& shape);

/// Takes columns first .. first + words.shape[1] of a matrix.
using TakeColumns = std::function<void(std::int64_t first, const HostTensor& words)>;

/// A matrix of the checkpoint, all columns, so many at a time that they take a few MB; at once
/// where its elements do not lie one after the other in the file. Thread-safe.
void read_columns(const TensorSource& source, const std::string& name, const TakeColumns& take);

/// As check_checkpoint, for a graph whose linear layers may be packed. `check_packed` is called for
/// every weight with its module; it returns false for a module that is not packed, and throws
/// InputError for one that does not fit its weight.
void check_packed_checkpoint(
    const ModelGraph& graph, const TensorSource& source,
    const std::function<bool(const TensorNode&, const std::string& module)>& check_packed);

}  // namespace quern
