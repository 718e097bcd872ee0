#include "pipeline/device/landing.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace quern {
namespace {

constexpr std::size_t kAlignment = 256;

/// At most an eighth more, so that modules of one shape with a few outliers more or fewer than
/// others can use each other's buffers.
std::size_t rounded_up(std::size_t bytes) {
  const std::size_t step = std::max<std::size_t>(1, std::bit_floor(bytes) / 8);
  return (bytes + step - 1) / step * step;
}

}  // namespace

HostBuffer LandingBuffers::take(std::size_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    auto best = free_.end();
    for (auto buffer = free_.begin(); buffer != free_.end(); ++buffer) {
      const bool fits = buffer->size() >= bytes;
      if (fits && (best == free_.end() || buffer->size() < best->size())) best = buffer;
    }
    if (best != free_.end()) {
      HostBuffer found = std::move(*best);
      free_.erase(best);
      return found;
    }
  }
  return memory_.allocate_host(rounded_up(bytes));
}

void LandingBuffers::give_back(HostBuffer buffer) {
  const std::lock_guard lock(mutex_);
  free_.push_back(std::move(buffer));
}

Landing::~Landing() {
  release();
}

void Landing::release() {
  if (buffer_.size() > 0) buffers_->give_back(std::exchange(buffer_, {}));
}

/// Where each array begins in the buffer, and behind them where the last one ends.
std::vector<std::size_t> Landing::begins() const {
  std::vector<std::size_t> result{0};
  for (const Array& array : arrays_) {
    const std::size_t end = result.back() + array.from.bytes();
    result.push_back((end + kAlignment - 1) / kAlignment * kAlignment);
  }
  return result;
}

void Landing::start(Memory& memory) {
  const std::vector<std::size_t> places = begins();
  buffer_ = buffers_->take(places.back());
  for (std::size_t i = 0; i < arrays_.size(); ++i) {
    const std::size_t bytes = arrays_[i].from.bytes();
    memory.download(arrays_[i].from, buffer_.first(places[i] + bytes).subspan(places[i]));
  }
}

void Landing::unload() {
  const std::vector<std::size_t> places = begins();
  for (std::size_t i = 0; i < arrays_.size(); ++i) {
    const Array& array = arrays_[i];
    const auto landed = std::as_const(buffer_).first(places[i] + array.from.bytes());
    array.to->dtype = array.from.dtype;
    array.to->shape = array.from.shape;
    array.to->bytes.assign(landed.begin() + static_cast<std::ptrdiff_t>(places[i]), landed.end());
  }
  arrays_.clear();
  release();
}

}  // namespace quern
