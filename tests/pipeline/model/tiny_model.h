#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/support/reference_model.h"

namespace quern::test {

/// What distinguishes one random tiny model from another: hidden 32, vocabulary 61, feed-forward
/// 48, and the reference's own defaults.
struct TinyModel {
  nlohmann::json config;  ///< fields over the common ones
  bool qkv_bias = false;
  bool output_bias = false;
  bool mlp_bias = false;
  bool tied = false;
  ReferenceModel reference;  ///< geometry in; tensors out
};

/// Writes config.json and model.safetensors (F32) into the folder and fills reference.tensors.
void write_tiny_model(const std::filesystem::path& folder, TinyModel& model);

}  // namespace quern::test
