#include "pipeline/run_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kernels/core/error.h"
#include "pipeline/model/packed_checkpoint.h"

namespace quern {

RunWeights::RunWeights(const WeightSource& original, const Plan& plan, const StateStore& store)
    : original_(original), store_(store) {
  for (const BundleUnit* bundle : plan.stored_bundles()) {
    for (const PlannedModule& planned : bundle->modules) {
      bundle_of_[planned.module.name] = bundle->name;
    }
  }
}

std::optional<QuantizedModule> RunWeights::module_of(const std::string& name) const {
  const std::string module = packed_module(name);
  const auto bundle = bundle_of_.find(module);
  if (bundle == bundle_of_.end() || !store_.contains(bundle->second)) return std::nullopt;
  const std::lock_guard lock(mutex_);
  if (cached_name_ != bundle->second) {
    auto stored = store_.read(bundle->second);
    if (!stored) {
      throw StoreError(
          fmt::format("{}: the bundle is damaged; run quantize again, which computes "
                      "it anew",
                      (store_.directory() / bundle->second).string()));
    }
    cached_ = from_bundle(std::move(*stored));
    cached_name_ = bundle->second;
  }
  const auto found = std::ranges::find(cached_, module, &QuantizedModule::name);
  ensure(found != cached_.end(), "the module in its bundle");
  return *found;
}

HostTensor RunWeights::read(const std::string& name) const {
  const auto module = module_of(name);
  return module ? dequantize_on_host(*module) : original_.read(name);
}

void RunWeights::read_pieces(const std::string& name, const TakeValues& take) const {
  const auto module = module_of(name);
  module ? dequantize_on_host(*module, take) : original_.read_pieces(name, take);
}

}  // namespace quern
