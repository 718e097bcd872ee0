#include "pipeline/flows/layer_inputs.h"

#include "kernels/core/error.h"
#include "workers/host_memory.h"

namespace quern {

LayerInputs::LayerInputs(Session& session, std::filesystem::path directory,
                         const LayerInputBudget& budget)
    : session_(session), directory_(std::move(directory)), budget_(budget) {
  if (budget_.host_bytes == 0) budget_.host_bytes = host_bytes_of_rank(session.ranks_on_host) / 2;
}

Tensor LayerInputs::copy_of(ConstTensorView residual) const {
  Memory& memory = session_.backend->memory();
  Tensor copy = memory.allocate(residual.dtype, residual.shape);
  memory.copy(residual, copy.view());
  return copy;
}

void LayerInputs::keep(std::int64_t layer, std::int64_t round, ConstTensorView residual) {
  Memory& memory = session_.backend->memory();
  Kept kept{residual.dtype, residual.shape, residual.bytes(), Offset{0}};
  if (device_bytes_ + kept.bytes <= budget_.device_bytes) {
    kept.place = copy_of(residual);
    device_bytes_ += kept.bytes;
  } else if (host_bytes_ + kept.bytes <= budget_.host_bytes) {
    HostBuffer buffer = memory.allocate_host(kept.bytes);
    memory.download(residual, buffer.first(kept.bytes));
    kept.place = std::move(buffer);
    host_bytes_ += kept.bytes;
  } else {
    if (!scratch_) scratch_.emplace(directory_);
    kept.place = scratch_->append(memory.to_host(residual).bytes);
  }
  kept_[{layer, round}] = std::move(kept);
}

Tensor LayerInputs::fetch(std::int64_t layer, std::int64_t round) const {
  const auto found = kept_.find({layer, round});
  ensure(found != kept_.end(), "a layer input that was kept");
  const Kept& kept = found->second;
  if (const auto* tensor = std::get_if<Tensor>(&kept.place)) return copy_of(tensor->view());
  Memory& memory = session_.backend->memory();
  if (const auto* buffer = std::get_if<HostBuffer>(&kept.place)) {
    Tensor device = memory.allocate(kept.dtype, kept.shape);
    memory.upload(buffer->first(kept.bytes), device.view());
    return device;
  }
  HostTensor loaded(kept.dtype, kept.shape);
  scratch_->read(std::get<Offset>(kept.place), loaded.bytes);
  return memory.to_device(loaded);
}

void LayerInputs::forget(std::int64_t layer) {
  session_.backend->memory().synchronize();  // no transfer reads what is freed now
  for (auto kept = kept_.lower_bound({layer, 0}); kept != kept_.end();) {
    if (kept->first.first != layer) break;
    const Kept& gone = kept->second;
    if (std::holds_alternative<Tensor>(gone.place)) device_bytes_ -= gone.bytes;
    if (std::holds_alternative<HostBuffer>(gone.place)) host_bytes_ -= gone.bytes;
    kept = kept_.erase(kept);
  }
}

}  // namespace quern
