#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <variant>
#include <vector>

#include "kernels/core/tensor.h"
#include "pipeline/model/take_values.h"
#include "workers/store/bundle_file.h"

namespace quern {

/// What the solver reports of one module.
struct ModuleMetrics {
  double relative_error = 0.0;  ///< weighted squared error over weighted squared weights, by H, by
                                ///< F, or plain where the method has no statistics
  double objective = 0.0;       ///< sum F (w - q)^2; 0 where no F was measured
  double damping_fraction = 0.0;  ///< finally used; 0 where no H was factorised
  std::int64_t dead_columns = 0;
  std::int64_t uninformed_rows = 0;  ///< output rows without any Fisher information
  std::string dequantized_hash;      ///< fingerprint_text of the dequantized weight, [N, K] f32
};

/// A module's layout and metrics: all that is known of it but its arrays.
struct ModuleSummary {
  std::string name;  ///< checkpoint name without ".weight"
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;
  int bits = 0;
  std::int64_t group_size = -1;  ///< as configured; -1: one group, and always for codebooks
  bool symmetric = true;
  std::int64_t outliers = 0;       ///< weights kept exactly
  DType table_dtype = DType::f32;  ///< in which centroids are stored
  ModuleMetrics metrics;
};

/// w = scale * (code - zero).
struct UniformGrid {
  HostTensor scales;    ///< [G, N] f16
  HostTensor zeros;     ///< [G, N] u8
  HostTensor group_of;  ///< [K] i32
};

/// w = table[n, code], plus vals at the outliers.
struct Codebook {
  HostTensor table;  ///< [N, 2^bits] f32
  HostTensor rows;   ///< [N + 1] i32, CSR row pointer
  HostTensor cols;   ///< [nnz] i32
  HostTensor vals;   ///< [nnz] f32
};

/// One quantized module, as kept in the state store and read by exporters. Checkpoint column order.
struct QuantizedModule : ModuleSummary {
  HostTensor words;  ///< [ceil(K bits / 32), N] i32, codes packed along K
  std::variant<UniformGrid, Codebook> values;
};

/// Modules solved and committed together, to and from the form the store keeps.
Bundle to_bundle(std::vector<QuantizedModule> modules);
/// Throws InternalError if the bundle was not made by to_bundle.
std::vector<QuantizedModule> from_bundle(Bundle bundle);
/// The JSON objects that describe a bundle's modules in its attributes, and what one of them says.
nlohmann::json summary_rows(const std::string& attributes);
ModuleSummary read_summary(const nlohmann::json& row);

/// fingerprint() as 16 hexadecimal digits.
std::string fingerprint_text(std::uint64_t fingerprint);

/// W [N, K] f32, decoded bit by bit on the host: an independent check of the device's arithmetic
/// and of the packing.
HostTensor dequantize_on_host(const QuantizedModule& module);
/// The same, a few rows at a time.
void dequantize_on_host(const QuantizedModule& module, const TakeValues& take);

}  // namespace quern
