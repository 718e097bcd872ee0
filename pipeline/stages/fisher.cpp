#include "pipeline/stages/fisher.h"

#include <algorithm>

#include "kernels/core/error.h"
#include "workers/agreement.h"

namespace quern {
namespace {

// Squared gradients spread over many powers of two: few bits are left unused, and a sequence that
// stands out costs a second pass over the layer.
constexpr int kFirstHeadroomBits = 6;
constexpr int kHeadroomStep = 10;
constexpr int kMostHeadroomBits = 47;

}  // namespace

FisherSums::FisherSums(Session& session, std::span<const LayerInput* const> inputs,
                       const StatisticsNeeded& needed, const SequenceCut& cut)
    : session_(session), needed_(needed), cut_(cut), headroom_bits_(kFirstHeadroomBits) {
  Memory& memory = session.backend->memory();
  for (std::size_t i = inputs.size(); i-- > 0;) {
    for (const LinearModule& module : inputs[i]->modules) {
      ModuleSums sums{module, i, {}, {}, memory.allocate(DType::i64, {1}), std::nullopt};
      memory.clear(sums.overflow.view());
      if (needed.fisher) {
        sums.fisher = memory.allocate(DType::i64, {module.out_features, module.in_features});
        sums.exponents = memory.allocate(DType::i32, {module.out_features});
        memory.clear(sums.fisher.view());
        memory.clear(sums.exponents.view());
      }
      if (needed.guided) sums.guided = make_gram(memory, module.in_features);
      modules_.push_back(std::move(sums));
    }
  }
}

void FisherSums::add_fisher(ModuleSums& sums, const LinearGradient* gradient, bool first_round) {
  StatisticsOps& ops = session_.backend->statistics();
  if (first_round) {
    if (session_.is_root()) {
      ensure(gradient != nullptr, "micro-batch 0 on rank 0");
      ops.choose_fisher_exponents(gradient->input, gradient->output_gradient, cut_, headroom_bits_,
                                  sums.exponents.view());
    }
    session_.communicator->broadcast(sums.exponents.view(), 0);
  }
  if (gradient == nullptr) return;
  ops.accumulate_fisher(gradient->input, gradient->output_gradient, cut_, sums.view());
}

void FisherSums::add_guided(ModuleSums& sums, const LinearGradient* gradient, bool first_round) {
  StatisticsOps& ops = session_.backend->statistics();
  const std::int64_t tokens = cut_.total_sequences * cut_.sequence_length;
  Tensor scaled;
  if (gradient != nullptr) {
    scaled = session_.backend->memory().allocate(gradient->input.dtype, gradient->input.shape);
    ops.scale_by_gradient(gradient->input, gradient->output_gradient, scaled.view());
  }
  if (first_round) {
    if (session_.is_root()) {
      ops.choose_gram_exponents(scaled.view(), tokens, headroom_bits_,
                                sums.guided->exponents.view());
    }
    session_.communicator->broadcast(sums.guided->exponents.view(), 0);
  }
  if (gradient != nullptr) ops.accumulate_gram(scaled.view(), tokens, sums.guided->view());
}

void FisherSums::add(const LinearGradient& gradient, bool first_round) {
  const auto found = std::ranges::find_if(
      modules_, [&](const ModuleSums& sums) { return sums.module.role == gradient.role; });
  if (found == modules_.end()) return;
  if (needed_.fisher) add_fisher(*found, &gradient, first_round);
  if (needed_.guided) add_guided(*found, &gradient, first_round);
}

void FisherSums::take_part() {
  for (ModuleSums& sums : modules_) {
    if (needed_.fisher) add_fisher(sums, nullptr, true);
    if (needed_.guided) add_guided(sums, nullptr, true);
  }
}

bool FisherSums::overflowed() {
  Memory& memory = session_.backend->memory();
  std::int64_t count = 0;
  const auto add = [&](const Tensor& overflow) {
    count += memory.to_host(overflow.view()).as<std::int64_t>()[0];
  };
  for (const ModuleSums& sums : modules_) {
    add(sums.overflow);
    if (sums.guided) add(sums.guided->overflow);
  }
  session_.communicator->sum(std::span(&count, 1));
  return count > 0;
}

void FisherSums::widen() {
  headroom_bits_ += kHeadroomStep;
  run_agreed(session_, [&] {
    if (headroom_bits_ <= kMostHeadroomBits) return;
    throw InputError(
        "statistics: the gradients of some layer overflow or are not finite; expected finite "
        "gradients, check that the model computes the calibration text in float32");
  });
  Memory& memory = session_.backend->memory();
  for (ModuleSums& sums : modules_) {
    memory.clear(sums.overflow.view());
    if (needed_.fisher) memory.clear(sums.fisher.view());
    if (!sums.guided) continue;
    memory.clear(sums.guided->sums.view());
    memory.clear(sums.guided->overflow.view());
  }
}

std::vector<BundleStatistics> FisherSums::reduce(std::span<const int> owners) {
  Memory& memory = session_.backend->memory();
  std::vector<BundleStatistics> result(owners.size());
  for (ModuleSums& sums : modules_) {
    const int owner = owners[sums.input];
    if (needed_.fisher) session_.communicator->reduce_sum(sums.fisher.view(), owner);
    if (sums.guided) session_.communicator->reduce_sum(sums.guided->sums.view(), owner);
    if (owner != session_.rank()) continue;
    ModuleStatistics& mine = result[sums.input].modules[sums.module.name];
    if (needed_.fisher) {
      mine.fisher = memory.allocate(DType::f32, sums.fisher.shape());
      session_.backend->statistics().fisher_values(sums.view(), mine.fisher->view());
      memory.synchronize();
      sums.fisher = {};
    }
    mine.guided = std::move(sums.guided);
  }
  modules_.clear();
  return result;
}

}  // namespace quern
