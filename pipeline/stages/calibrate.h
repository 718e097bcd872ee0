#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "pipeline/statistics.h"
#include "workers/session.h"

namespace quern {

/// Sums H over the micro-batches of all ranks, the same bits for any number of ranks. The exponents
/// of an input come from micro-batch 0, on rank 0, and are broadcast when the input is first met.
class Calibrate {
 public:
  /// features: of each input that is measured together; total_tokens: of all micro-batches.
  Calibrate(Session& session, std::vector<std::int64_t> features, std::int64_t total_tokens);

  /// Collective, in round 0, once per input on every rank; x is the input of this rank's
  /// micro-batch, or nullptr if it has none.
  void choose_exponents(std::size_t input, const Tensor* x);
  /// Adds the contribution of one micro-batch.
  void add(std::size_t input, const Tensor& x);

  /// Collective: true if a contribution of any rank was too large for the exponents. Then widen()
  /// gives more headroom, and exponents and all micro-batches start again.
  bool overflowed();
  void widen();

  /// Collective: sums every input's H at its owner, where it is complete then.
  void reduce(std::span<const int> owners);
  /// Collective, after reduce(): an input's H from its owner to all ranks.
  void share(std::size_t input, int owner);

  Gram& gram(std::size_t input) { return grams_[input]; }

 private:
  Session& session_;
  std::int64_t total_tokens_;
  int headroom_bits_;
  std::vector<Gram> grams_;
};

}  // namespace quern
