#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "pipeline/model/decoder_block.h"
#include "pipeline/statistics.h"
#include "workers/session.h"

namespace quern {

/// Sums F, and H weighted by gradients, of modules of one layer over the micro-batches of all
/// ranks: the same bits for any number of ranks. The exponents of a module come from micro-batch 0,
/// on rank 0, and are broadcast when the module is first met; so in the first round every rank
/// takes part in the visits of every other.
class FisherSums {
 public:
  /// inputs: whose modules are measured, in the order of LayerGraph.
  FisherSums(Session& session, std::span<const LayerInput* const> inputs,
             const StatisticsNeeded& needed, const SequenceCut& cut);

  /// The contribution of one micro-batch to one module; other modules are passed over. Collective
  /// in the first round.
  void add(const LinearGradient& gradient, bool first_round);
  /// Collective: what a rank without a micro-batch does in the first round.
  void take_part();

  /// Collective: true if a contribution of any rank was too large for the exponents. Then widen()
  /// gives more headroom, and exponents and all micro-batches start again.
  bool overflowed();
  void widen();

  /// Collective: sums the modules of every input at its owner; the statistics of those inputs whose
  /// owner this rank is, in the order of `inputs`, others empty. Leaves this object empty.
  std::vector<BundleStatistics> reduce(std::span<const int> owners);

 private:
  struct ModuleSums {
    LinearModule module;
    std::size_t input;
    Tensor fisher;  ///< [N, K] i64
    Tensor exponents;
    Tensor overflow;  ///< [1 + N] i64, or [1] where F is not needed
    std::optional<Gram> guided;

    FisherView view() { return {fisher.view(), exponents.view(), overflow.view()}; }
  };

  void add_fisher(ModuleSums& sums, const LinearGradient* gradient, bool first_round);
  void add_guided(ModuleSums& sums, const LinearGradient* gradient, bool first_round);

  Session& session_;
  StatisticsNeeded needed_;
  SequenceCut cut_;
  int headroom_bits_;
  std::vector<ModuleSums> modules_;  ///< in the order of visits
};

}  // namespace quern
