#include "pipeline/stages/fisher.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "kernels/core/error.h"
#include "workers/agreement.h"

namespace quern {
namespace {

// Each of S roundings errs by 0.3 units on average, and all of them by 4 * 0.3 * sqrt(S) hardly
// ever: 13 units for 128 sequences. A row whose largest entry is 2^54 then keeps 2^-20 of those
// 2^30 below it. Measured: where micro-batches have 4 sequences, rows exceed by up to 2^7 what
// the first one shows, and single sequences by 2^12, which are bursts.
constexpr int kFirstHeadroomBits = 8;
constexpr int kHeadroomStep = 10;
constexpr int kMostHeadroomBits = 47;

}  // namespace

FisherSums::FisherSums(Session& session, std::span<const LayerInput* const> inputs,
                       const StatisticsNeeded& needed, const SequenceCut& cut)
    : session_(session), needed_(needed), cut_(cut), headroom_bits_(kFirstHeadroomBits) {
  Memory& memory = session.backend->memory();
  for (std::size_t i = inputs.size(); i-- > 0;) {
    for (const LinearModule& module : inputs[i]->modules) {
      const std::int64_t rows = needed.fisher ? module.out_features : 0;
      ModuleSums sums{module, i, {}, {}, memory.allocate(DType::i64, {1 + rows}), std::nullopt};
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
  std::vector<std::int64_t> refused;
  std::vector<std::int64_t> bursts;
  for (const ModuleSums& sums : modules_) {
    const HostTensor overflow = memory.to_host(sums.overflow.view());
    const auto of_rows = overflow.as<std::int64_t>().subspan(1);
    refused.push_back(overflow.as<std::int64_t>()[0]);
    bursts.insert(bursts.end(), of_rows.begin(), of_rows.end());
    if (!sums.guided) continue;
    refused.push_back(memory.to_host(sums.guided->overflow.view()).as<std::int64_t>()[0]);
  }
  session_.communicator->sum(refused);
  session_.communicator->sum(bursts);
  return std::ranges::any_of(refused, [](std::int64_t count) { return count > 0; }) ||
         std::ranges::any_of(
             bursts, [](std::int64_t burst) { return burst >= StatisticsOps::fisher_burst_limit; });
}

void FisherSums::widen() {
  headroom_bits_ += kHeadroomStep;
  run_agreed(session_, [&] {
    if (headroom_bits_ <= kMostHeadroomBits) return;
    throw InputError(
        "statistics: the gradients of some layer overflow or are not finite; expected finite "
        "gradients, check that the model computes the calibration text in float32");
  });
  if (session_.is_root()) {
    session_.log->info("gradients far above those of the first micro-batch: measured again");
  }
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
