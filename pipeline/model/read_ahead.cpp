#include "pipeline/model/read_ahead.h"

#include <algorithm>
#include <utility>

#include "workers/parallel.h"

namespace quern {
namespace {

constexpr int kMostThreads = 16;
constexpr std::size_t kPieceBytes = std::size_t{4} << 20;
constexpr std::size_t kAlignment = 64;

/// Whether the host could use the device's memory as it is.
bool is_on_host(Memory& memory) {
  return memory.host_address(memory.allocate(DType::u8, {1}).view()) != nullptr;
}

std::size_t aligned(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

/// A GPU waits for the host, whose threads are idle then; on the CPU they compute.
ReadAhead::ReadAhead(Session& session, const WeightSource& source)
    : session_(session),
      source_(source),
      threads_(is_on_host(session.backend->memory()) ? 1
                                                     : std::min(session.threads, kMostThreads)) {}

/// The tensors as they can be read in pieces; what has to be computed is computed here.
std::vector<SourceTensor> ReadAhead::open(const std::vector<std::string>& names) const {
  std::vector<SourceTensor> tensors(names.size());
  run_parallel(names.size(), threads_, [&](std::size_t i) {
    const Trace::Span span(session_.trace.get(), "open {}", names[i]);
    tensors[i] = SourceTensor(source_, names[i]);
  });
  return tensors;
}

std::span<std::byte> ReadAhead::buffer_of(std::size_t bytes) {
  if (buffer_.size() < bytes) {
    buffer_ = {};  // never two of them
    buffer_ = session_.backend->memory().allocate_host(bytes);
  }
  return buffer_.first(bytes);
}

std::vector<HostView> ReadAhead::read(const std::vector<std::string>& names) {
  const std::vector<SourceTensor> tensors = open(names);
  std::size_t total = 0;
  for (const SourceTensor& tensor : tensors) total += aligned(tensor.bytes());
  const Trace::Span span(session_.trace.get(), "read {} tensors, {:.1f} MB", names.size(),
                         static_cast<double>(total) / 1e6);
  std::span<std::byte> rest = buffer_of(total);
  struct Piece {
    const SourceTensor* tensor;
    std::size_t begin;
    std::span<std::byte> out;
  };
  std::vector<Piece> pieces;
  std::vector<HostView> views;
  for (const SourceTensor& tensor : tensors) {
    const std::span<std::byte> place = rest.first(tensor.bytes());
    rest = rest.subspan(aligned(tensor.bytes()));
    for (std::size_t begin = 0; begin < place.size(); begin += kPieceBytes) {
      const std::size_t count = std::min(kPieceBytes, place.size() - begin);
      pieces.push_back({&tensor, begin, place.subspan(begin, count)});
    }
    views.push_back({tensor.dtype(), place});
  }
  run_parallel(pieces.size(), threads_,
               [&](std::size_t i) { pieces[i].tensor->read(pieces[i].begin, pieces[i].out); });
  return views;
}

void ReadAhead::start(std::vector<std::string> names) {
  started_.clear();
  pending_ = {};  // waits for the request it replaces
  pending_ = std::async(std::launch::async, [this, names] { return read(names); });
  started_ = std::move(names);
}

std::vector<HostView> ReadAhead::take(const std::vector<std::string>& names) {
  std::future<std::vector<HostView>> pending = std::exchange(pending_, {});
  if (pending.valid() && std::exchange(started_, {}) == names) return pending.get();
  pending = {};  // the buffer is free when it is done
  return read(names);
}

}  // namespace quern
