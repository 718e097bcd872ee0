#pragma once

#include <string>
#include <vector>

#include "tests/e2e/run_folder.h"

namespace quern::test {

/// Ways through the method that differ in what is measured, decided and written.
struct TableVariant {
  std::string name;
  Command settings;
};

/// The paper's rule: outliers beyond a threshold of the whole model.
inline TableVariant paper_rule() {
  return {"PaperRule", squeezellm("squeezellm", {"quantize.bits=3", "quantize.sparsity=0.0045"})};
}

/// Outliers spread over the model by their effect, tables refined against H.
inline TableVariant joint_over_the_model() {
  return {"JointOverTheModel",
          squeezellm("squeezellm_safetensors",
                     {"quantize.bits=2", "quantize.codebook_search=lnq",
                      "quantize.sparsity={sensitive: 0.0045, rule: joint, budget: model}"})};
}

/// Bits spread over the model.
inline TableVariant target_bits() {
  return {"TargetBits",
          squeezellm("squeezellm_safetensors",
                     {"quantize.target_bits=4.7", "quantize.sparsity={sensitive: 0.001}"})};
}

inline std::vector<TableVariant> table_variants() {
  return {paper_rule(), joint_over_the_model(), target_bits()};
}

}  // namespace quern::test
