#include "pipeline/stages/calibrate.h"

#include <spdlog/spdlog.h>

#include "kernels/core/error.h"
#include "workers/agreement.h"

namespace quern {
namespace {

constexpr int kFirstHeadroomBits = 10;
constexpr int kHeadroomStep = 12;
constexpr int kMostHeadroomBits = 46;

}  // namespace

Calibrate::Calibrate(Session& session, std::vector<std::int64_t> features,
                     std::int64_t total_tokens)
    : session_(session), total_tokens_(total_tokens), headroom_bits_(kFirstHeadroomBits) {
  for (const std::int64_t k : features) {
    grams_.push_back(make_gram(session.backend->memory(), k));
  }
}

void Calibrate::choose_exponents(std::size_t input, const Tensor* x) {
  Gram& gram = grams_[input];
  if (session_.is_root()) {
    ensure(x != nullptr, "micro-batch 0 on rank 0");
    session_.backend->statistics().choose_gram_exponents(x->view(), total_tokens_, headroom_bits_,
                                                         gram.exponents.view());
  }
  session_.communicator->broadcast(gram.exponents.view(), 0);
}

void Calibrate::add(std::size_t input, const Tensor& x) {
  session_.backend->statistics().accumulate_gram(x.view(), total_tokens_, grams_[input].view());
}

bool Calibrate::overflowed() {
  std::int64_t count = 0;
  for (Gram& gram : grams_) {
    count += session_.backend->memory().to_host(gram.overflow.view()).as<std::int64_t>()[0];
  }
  session_.communicator->sum(std::span(&count, 1));
  return count > 0;
}

void Calibrate::widen() {
  headroom_bits_ += kHeadroomStep;
  run_agreed(session_, [&] {
    if (headroom_bits_ <= kMostHeadroomBits) return;
    throw InputError(
        "statistics: the activations of some layer input overflow or are not finite; "
        "expected finite activations, check that the model computes the calibration "
        "text in float32");
  });
  if (session_.is_root()) {
    session_.log->info("activations far above those of the first micro-batch: measured again");
  }
  for (Gram& gram : grams_) {
    session_.backend->memory().clear(gram.sums.view());
    session_.backend->memory().clear(gram.overflow.view());
  }
}

void Calibrate::reduce(std::span<const int> owners) {
  for (std::size_t input = 0; input < grams_.size(); ++input) {
    session_.communicator->reduce_sum(grams_[input].sums.view(), owners[input]);
  }
}

void Calibrate::share(std::size_t input, int owner) {
  session_.communicator->broadcast(grams_[input].sums.view(), owner);
}

}  // namespace quern
