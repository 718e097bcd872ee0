#pragma once

#include <cstdint>
#include <vector>

#include "pipeline/plan.h"

namespace quern {

/// Whether bits or outliers are spread over the whole model by what was measured, so that the
/// statistics of all of it must be known before any module is solved.
bool allocates_by_statistics(const QuantizeConfig& config);

/// Bits of a stored centroid.
int table_entry_bits(const QuantizeConfig& config);

/// Bits that codes and table of an [out, in] module take in the file.
double dense_bits(std::int64_t out_features, std::int64_t in_features, int bits, int entry_bits);

/// The bit widths worth trying where quantize.target_bits is set: from one below the widest that
/// every module could have within the target (2 if there is none) to two above the widest that
/// some module could have.
std::vector<int> candidate_bits(const Plan& plan, const QuantizeConfig& config);

/// Throws ConfigError if 2 bits in every planned module exceed quantize.target_bits.
void check_target(const Plan& plan, const QuantizeConfig& config);

}  // namespace quern
