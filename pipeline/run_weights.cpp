#include "pipeline/run_weights.h"

#include <algorithm>
#include <utility>

#include "kernels/core/error.h"
#include "pipeline/model/packed_checkpoint.h"
#include "pipeline/run_context.h"

namespace quern {

RunWeights::RunWeights(const WeightSource& original, const Plan& plan, const StateStore& store)
    : original_(original), store_(store) {
  for (const BundleUnit* bundle : plan.stored_bundles()) {
    for (const PlannedModule& planned : bundle->modules) {
      bundle_of_[planned.module.name] = bundle->name;
    }
  }
}

const std::string* RunWeights::bundle_of(const std::string& module) const {
  const auto bundle = bundle_of_.find(module);
  return bundle != bundle_of_.end() && store_.contains(bundle->second) ? &bundle->second : nullptr;
}

std::optional<QuantizedModule> RunWeights::module_of(const std::string& name) const {
  const std::string module = packed_module(name);
  const std::string* const bundle = bundle_of(module);
  if (bundle == nullptr) return std::nullopt;
  const std::lock_guard lock(mutex_);
  if (cached_name_ != *bundle) {
    auto stored = store_.read(*bundle);
    if (!stored) refuse_damaged(store_, *bundle);
    cached_ = from_bundle(std::move(*stored));
    cached_name_ = *bundle;
  }
  const auto found = std::ranges::find(cached_, module, &QuantizedModule::name);
  ensure(found != cached_.end(), "the module in its bundle");
  return *found;
}

std::optional<StoredTensor> RunWeights::stored(const std::string& name) const {
  if (bundle_of(packed_module(name)) != nullptr) return std::nullopt;
  return original_.stored(name);
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
