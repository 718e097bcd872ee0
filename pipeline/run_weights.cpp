#include "pipeline/run_weights.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/core/error.h"

namespace quern {
namespace {

/// The module whose weight has this name; empty for other tensors.
std::optional<std::string> module_of(const std::string& tensor) {
  constexpr std::string_view suffix = ".weight";
  if (!tensor.ends_with(suffix)) return std::nullopt;
  return tensor.substr(0, tensor.size() - suffix.size());
}

}  // namespace

RunWeights::RunWeights(const WeightSource& original, const Plan& plan, const StateStore& store)
    : original_(original), store_(store) {
  for (const BundleUnit* bundle : plan.stored_bundles()) {
    for (const PlannedModule& planned : bundle->modules) {
      bundle_of_[planned.module.name] = bundle->name;
    }
  }
}

const std::string* RunWeights::bundle_of(const std::string& module_name) const {
  const auto bundle = bundle_of_.find(module_name);
  return bundle != bundle_of_.end() && store_.contains(bundle->second) ? &bundle->second : nullptr;
}

std::optional<QuantizedModule> RunWeights::module(const std::string& module_name) const {
  const std::string* const bundle = bundle_of(module_name);
  if (bundle == nullptr) return std::nullopt;
  const std::lock_guard lock(mutex_);
  if (cached_name_ != *bundle) {
    const auto stored = store_.read(*bundle);
    if (!stored) {
      throw StoreError(
          fmt::format("{}: the bundle is damaged; run quantize again, which computes "
                      "it anew",
                      (store_.directory() / *bundle).string()));
    }
    cached_ = from_bundle(*stored);
    cached_name_ = *bundle;
  }
  const auto found = std::ranges::find(cached_, module_name, &QuantizedModule::name);
  ensure(found != cached_.end(), "the module in its bundle");
  return *found;
}

std::optional<StoredTensor> RunWeights::stored(const std::string& name) const {
  const std::optional<std::string> owner = module_of(name);
  if (owner && bundle_of(*owner) != nullptr) return std::nullopt;
  return original_.stored(name);
}

HostTensor RunWeights::read(const std::string& name) const {
  if (const std::optional<std::string> owner = module_of(name)) {
    if (const auto found = module(*owner)) return dequantize_on_host(*found);
  }
  return original_.read(name);
}

}  // namespace quern
