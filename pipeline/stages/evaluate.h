#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "pipeline/model/forward.h"
#include "pipeline/model/weight_source.h"
#include "workers/session.h"

namespace quern {

struct Perplexity {
  double perplexity = 0.0;
  double mean_nll = 0.0;  ///< nats per predicted token
  std::int64_t tokens = 0;
  std::int64_t windows = 0;
};

/// Collective. exp(mean negative log-likelihood) over all predicted tokens, layer by layer, so that
/// one layer's weights are in memory at a time. The sum runs in window order whatever the number of
/// ranks. Frantar et al. 2022, section 5 (windows of a joined text).
Perplexity evaluate_perplexity(Session& session, const ModelGraph& graph,
                               const WeightSource& weights, const MicroBatches& batches);

}  // namespace quern
