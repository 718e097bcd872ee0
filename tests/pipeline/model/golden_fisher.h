#pragma once

#include <map>
#include <string>

#include "pipeline/model/weight_source.h"
#include "workers/session.h"
#include "workers/tensors/safetensors.h"

namespace quern::test {

/// F [N, K] f32 by module name.
using FisherOfModules = std::map<std::string, HostTensor>;

/// What the rows of F may be apart by, as a share of their sum, for activations of a type in a
/// model of so many layers.
double fisher_tolerance(DType activation, std::int64_t layers);

/// One model beside its golden F; needs the reference folder.
class GoldenFisher {
 public:
  explicit GoldenFisher(const std::string& name);

  /// F of the layers that the reference has, as far as this rank owns it. Collective.
  FisherOfModules fisher(Session& session, std::int64_t micro_batch) const;

  /// Compares the weights of which this rank owns F; returns how many.
  std::int64_t expect_golden(const FisherOfModules& found, DType activation) const;

 private:
  std::string name_;
  SafetensorsFile golden_;
  OpenModel model_;
};

}  // namespace quern::test
