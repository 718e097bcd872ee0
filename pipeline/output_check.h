#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "pipeline/quantized_module.h"
#include "pipeline/run_context.h"
#include "pipeline/run_weights.h"

namespace quern {

/// What one thread compares at a time: a quantized module, or a run of another tensor's elements.
struct TensorPart {
  std::size_t tensor = 0;  ///< of OutputCheck::tensors()
  std::int64_t first = 0;
  std::int64_t elems = 0;
};

/// Compares the tensors of an output folder with what they should be. The context and the model
/// outlive it. Any thread.
class OutputCheck {
 public:
  /// modules: what the solver reported of each committed one.
  OutputCheck(RunContext& context, const OpenModel& output, std::span<const ModuleSummary> modules);

  /// Of the whole model, in its order.
  const std::vector<const TensorNode*>& tensors() const noexcept { return tensors_; }
  bool is_quantized(const TensorNode& node) const;

  /// Every tensor in one or more parts, the costly ones first; the same on every rank.
  std::vector<TensorPart> parts() const;
  /// Whether nothing is wrong with a part. InputError or StoreError: it cannot be read.
  bool passes(const TensorPart& part) const;
  /// What is wrong with a tensor of which a part does not pass.
  std::string problem_of(const TensorNode& node) const;

 private:
  bool lies_in_both_files(const TensorNode& node) const;
  bool equals_source(const TensorNode& node, const TensorPart& part) const;
  bool decodes_as_reported(const TensorNode& node) const;

  RunContext& context_;
  const OpenModel& output_;
  RunWeights committed_;
  std::map<std::string, const ModuleMetrics*> reported_;
  std::vector<const TensorNode*> tensors_;
};

}  // namespace quern
