#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/core/tensor.h"
#include "workers/store/bundle_file.h"

namespace quern {

/// What the solver reports of one module.
struct ModuleMetrics {
  double relative_error = 0.0;    ///< sum (w-q) H (w-q)^T / sum w H w^T; plain squares without H
  double damping_fraction = 0.0;  ///< finally used; 0 where no H was factorised
  std::int64_t dead_columns = 0;
  std::string dequantized_hash;  ///< xxh3_hex of the dequantized weight, [N, K] f32
};

/// One module on a uniform grid, as kept in the state store and read by exporters. Checkpoint
/// column order.
struct QuantizedModule {
  std::string name;  ///< checkpoint name without ".weight"
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;
  int bits = 0;
  std::int64_t group_size = 0;  ///< as configured; -1: one group
  bool symmetric = true;
  HostTensor words;     ///< [ceil(K bits / 32), N] i32, codes packed along K
  HostTensor scales;    ///< [G, N] f16
  HostTensor zeros;     ///< [G, N] u8
  HostTensor group_of;  ///< [K] i32
  ModuleMetrics metrics;
};

/// Modules solved and committed together, to and from the form the store keeps.
Bundle to_bundle(std::span<const QuantizedModule> modules);
/// Throws InternalError if the bundle was not made by to_bundle.
std::vector<QuantizedModule> from_bundle(const Bundle& bundle);

/// W [N, K] f32 = scale * (code - zero), decoded bit by bit on the host: an independent check of
/// the device's arithmetic and of the packing.
HostTensor dequantize_on_host(const QuantizedModule& module);

}  // namespace quern
