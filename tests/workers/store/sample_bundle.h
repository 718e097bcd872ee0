#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "workers/store/bundle_file.h"

namespace quern::test {

template <typename T>
HostTensor tensor_of(DType dtype, const Shape& shape, const std::vector<T>& values) {
  HostTensor tensor(dtype, shape);
  if (!values.empty()) std::memcpy(tensor.bytes.data(), values.data(), values.size() * sizeof(T));
  return tensor;
}

/// One array of every kind that matters: nested names, half types, empty, scalar, four axes.
inline Bundle sample_bundle() {
  Bundle bundle;
  bundle.attributes = R"({"modules": ["q_proj"], "loss": 0.5})";
  bundle.arrays["q_proj/codes"] =
      tensor_of<std::int32_t>(DType::i32, Shape{2, 3}, {1, -2, 3, 0x11223344, 5, 6});
  bundle.arrays["q_proj/scales"] =  // 1, -2, 65504
      tensor_of<std::uint16_t>(DType::f16, Shape{3}, {0x3c00, 0xc000, 0x7bff});
  bundle.arrays["centroids"] =  // 1, -0.5
      tensor_of<std::uint16_t>(DType::bf16, Shape{2, 1}, {0x3f80, 0xbf00});
  bundle.arrays["f8"] = tensor_of<std::uint8_t>(DType::f8_e4m3, Shape{1, 1, 2, 1}, {0x38, 0xff});
  bundle.arrays["fisher"] = tensor_of<double>(DType::f64, Shape{2}, {0.1, -1e300});
  bundle.arrays["empty"] = HostTensor(DType::f32, Shape{0, 7});
  bundle.arrays["scalar"] = tensor_of<std::int64_t>(DType::i64, Shape(), {-123456789012345});
  bundle.arrays["mask"] = tensor_of<std::uint8_t>(DType::boolean, Shape{3}, {1, 0, 1});
  return bundle;
}

inline bool same_bundle(const Bundle& left, const Bundle& right) {
  if (left.attributes != right.attributes || left.arrays.size() != right.arrays.size()) {
    return false;
  }
  for (const auto& [name, array] : left.arrays) {
    const auto other = right.arrays.find(name);
    if (other == right.arrays.end() || other->second.dtype != array.dtype ||
        !(other->second.shape == array.shape) || other->second.bytes != array.bytes) {
      return false;
    }
  }
  return true;
}

inline std::string contents(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

inline void put(const std::filesystem::path& file, const std::string& text) {
  std::ofstream(file, std::ios::binary | std::ios::trunc) << text;
}

}  // namespace quern::test
