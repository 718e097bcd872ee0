#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/model/weight_source.h"
#include "pipeline/plan.h"
#include "pipeline/quantized_module.h"
#include "workers/store/state_store.h"

namespace quern {

/// The original model with the committed modules of a run in front.
class RunWeights final : public WeightSource {
 public:
  RunWeights(const WeightSource& original, const Plan& plan, const StateStore& store);

  HostTensor read(const std::string& name) const override;
  std::optional<StoredTensor> stored(const std::string& name) const override;
  void read_pieces(const std::string& name, const TakeValues& take) const override;
  std::uint64_t bytes(const std::string& name) const override { return original_.bytes(name); }

 private:
  /// The stored bundle that holds a weight; nullptr: the weight is the original one.
  const std::string* bundle_of(const std::string& module_name) const;
  /// The committed module whose weight has this name; empty if there is none, or it is not
  /// committed. Throws StoreError if its bundle is damaged.
  std::optional<QuantizedModule> module_of(const std::string& name) const;

  const WeightSource& original_;
  const StateStore& store_;
  std::map<std::string, std::string> bundle_of_;  ///< module name -> bundle name
  mutable std::mutex mutex_;
  mutable std::string cached_name_;  ///< modules of one bundle are asked for one after the other
  mutable std::vector<QuantizedModule> cached_;
};

}  // namespace quern
