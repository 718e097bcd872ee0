#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "pipeline/model/forward.h"
#include "pipeline/run_context.h"

namespace quern {

/// The states of this rank's micro-batches between layers, and their copies in the store.
class Activations {
 public:
  Activations(RunContext& context, const MicroBatches& batches);

  const MicroBatches& batches() const noexcept { return batches_; }
  std::int64_t rounds() const { return batches_.rounds(context_.session.ranks()); }
  /// The state of this rank's micro-batch in a round; nullptr when it has none left.
  BlockState* in_round(std::int64_t round);

  /// Residuals of layer 0 from the token ids.
  void embed(Forward& forward, const LayerWeights& ends);

  /// Collective: commits the residuals as the inputs of `layer`; the inputs saved for earlier
  /// layers are then deleted.
  void save(std::int64_t layer);
  /// Collective: the latest layer up to `latest` whose inputs are all saved and whole; -1 if none.
  std::int64_t latest_saved(std::int64_t latest);
  /// Residuals of a layer found by latest_saved().
  void restore(std::int64_t layer);

 private:
  std::vector<std::string> names(std::int64_t layer) const;

  RunContext& context_;
  const MicroBatches& batches_;
  std::vector<BlockState> states_;  ///< of this rank's micro-batches, by round
};

}  // namespace quern
