#pragma once

#include <map>
#include <string>
#include <vector>

#include "pipeline/model/forward.h"
#include "pipeline/model/weight_source.h"
#include "workers/session.h"

namespace quern::test {

/// Everything a forward pass over one micro-batch leaves on the way, [T, ...] f32.
struct Trace {
  std::vector<HostTensor> hidden;            ///< input of each layer, then the final norm's output
  std::map<std::string, HostTensor> inputs;  ///< what each module reads, by module name
  HostTensor logits;                         ///< [T, V]
  std::vector<float> nll;                    ///< as Forward::token_nll
};

/// Micro-batch 0 through the model, stage by stage as the pipeline does it.
Trace trace_model(Session& session, const OpenModel& model, const MicroBatches& batches);

}  // namespace quern::test
