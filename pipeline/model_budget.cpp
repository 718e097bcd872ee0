#include "pipeline/model_budget.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kernels/core/error.h"

namespace quern {
namespace {

constexpr int kFewestBits = 2;
constexpr int kMostBits = 8;

/// The widest whose codes and tables stay within `target` bits per weight; 2 if none does.
int widest_within(double target, std::int64_t in_features, int entry_bits) {
  int bits = kMostBits;
  const auto per_weight = [&] {
    return dense_bits(1, in_features, bits, entry_bits) / static_cast<double>(in_features);
  };
  while (bits > kFewestBits && per_weight() > target) --bits;
  return bits;
}

}  // namespace

bool allocates_by_statistics(const QuantizeConfig& config) {
  const Sparsity& sparsity = config.sparsity;
  return config.method == Method::squeezellm &&
         (config.target_bits ||
          (sparsity.rule == OutlierSelection::joint && sparsity.budget == OutlierBudget::model &&
           sparsity.total() > 0.0));
}

int table_entry_bits(const QuantizeConfig& config) {
  return config.codebook_type == CodebookType::float16 ? 16 : 32;
}

double dense_bits(std::int64_t out_features, std::int64_t in_features, int bits, int entry_bits) {
  const auto words = static_cast<double>((in_features * bits + 31) / 32);
  return static_cast<double>(out_features) * (32.0 * words + std::exp2(bits) * entry_bits);
}

std::vector<int> candidate_bits(const Plan& plan, const QuantizeConfig& config) {
  int lowest = kMostBits;
  int highest = kFewestBits;
  for (const BundleUnit* bundle : plan.stored_bundles()) {
    const int widest =
        widest_within(*config.target_bits, bundle->input.features, table_entry_bits(config));
    lowest = std::min(lowest, widest - 1);
    highest = std::max(highest, widest + 2);
  }
  std::vector<int> result;
  for (int bits = std::max(kFewestBits, lowest); bits <= std::min(kMostBits, highest); ++bits) {
    result.push_back(bits);
  }
  return result;
}

void check_target(const Plan& plan, const QuantizeConfig& config) {
  if (!config.target_bits) return;
  const auto weights = static_cast<double>(plan.planned_weights());
  double fewest = 0.0;
  for (const BundleUnit* bundle : plan.stored_bundles()) {
    for (const auto& [module, grid] : bundle->modules) {
      fewest += dense_bits(module.out_features, module.in_features, kFewestBits,
                           table_entry_bits(config));
    }
  }
  if (fewest <= *config.target_bits * weights) return;
  throw ConfigError(
      fmt::format("quantize.target_bits: {} bits per weight cannot be met; with 2 bits in every "
                  "module, tables included, it is {:.3f}; ask for that or more",
                  *config.target_bits, fewest / weights));
}

}  // namespace quern
