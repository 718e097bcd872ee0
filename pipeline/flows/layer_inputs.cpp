#include "pipeline/flows/layer_inputs.h"

#include "kernels/core/error.h"
#include "workers/host_memory.h"

namespace quern {
namespace {

std::uint64_t default_budget(const Session& session) {
  return available_host_bytes() / 2 / static_cast<std::uint64_t>(session.ranks_on_host);
}

}  // namespace

LayerInputs::LayerInputs(Session& session, std::filesystem::path directory,
                         std::uint64_t budget_bytes)
    : session_(session),
      directory_(std::move(directory)),
      budget_bytes_(budget_bytes == 0 ? default_budget(session) : budget_bytes) {}

void LayerInputs::keep(std::int64_t layer, std::int64_t round, ConstTensorView residual) {
  Kept kept{session_.backend->memory().to_host(residual), std::nullopt};
  if (host_bytes_ + kept.tensor.bytes.size() > budget_bytes_) {
    if (!scratch_) scratch_.emplace(directory_);
    kept.offset = scratch_->append(kept.tensor.bytes);
    kept.tensor.bytes = {};
  }
  host_bytes_ += kept.tensor.bytes.size();
  kept_[{layer, round}] = std::move(kept);
}

Tensor LayerInputs::fetch(std::int64_t layer, std::int64_t round) const {
  const auto found = kept_.find({layer, round});
  ensure(found != kept_.end(), "a layer input that was kept");
  const Kept& kept = found->second;
  if (!kept.offset) return session_.backend->memory().to_device(kept.tensor);
  HostTensor loaded(kept.tensor.dtype, kept.tensor.shape);
  scratch_->read(*kept.offset, loaded.bytes);
  return session_.backend->memory().to_device(loaded);
}

void LayerInputs::forget(std::int64_t layer) {
  for (auto kept = kept_.lower_bound({layer, 0}); kept != kept_.end();) {
    if (kept->first.first != layer) break;
    host_bytes_ -= kept->second.tensor.bytes.size();
    kept = kept_.erase(kept);
  }
}

}  // namespace quern
