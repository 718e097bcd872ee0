#pragma once

#include <string>
#include <vector>

#include "workers/tensors/safetensors.h"

namespace quern::test {

/// The models with golden values of every kind.
inline std::vector<std::string> golden_models() {
  return {"llama3m", "llama20m", "mistral9m"};
}

inline HostTensor read(const SafetensorsFile& file, const std::string& name) {
  const TensorEntry& entry = file.entries().at(name);
  HostTensor tensor(entry.dtype, entry.shape);
  file.read(entry, tensor.bytes);
  return tensor;
}

}  // namespace quern::test
