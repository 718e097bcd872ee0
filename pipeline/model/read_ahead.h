#pragma once

#include <cstddef>
#include <future>
#include <span>
#include <string>
#include <vector>

#include "pipeline/model/source_tensor.h"
#include "workers/session.h"

namespace quern {

/// A tensor on the host, in memory of whoever read it.
struct HostView {
  DType dtype = DType::f32;
  std::span<const std::byte> bytes;
};

/// Reads tensors in the background, ahead of their use: pieces of them side by side on the threads
/// that wait while a GPU computes, into one buffer that the device reads at full speed. One request
/// at a time is in flight: start the next layer while the current one computes.
class ReadAhead {
 public:
  ReadAhead(Session& session, const WeightSource& source);

  /// Begins to read; replaces a request that was never taken. Ends the life of what take()
  /// returned, whose uploads must be done.
  void start(std::vector<std::string> names);
  /// The tensors in the order asked for, until the next call of this object; reads now unless
  /// exactly these were started. Rethrows the errors of reading.
  std::vector<HostView> take(const std::vector<std::string>& names);

 private:
  std::vector<HostView> read(const std::vector<std::string>& names);
  std::vector<SourceTensor> open(const std::vector<std::string>& names) const;
  std::span<std::byte> buffer_of(std::size_t bytes);

  Session& session_;
  const WeightSource& source_;
  int threads_;
  HostBuffer buffer_;
  std::vector<std::string> started_;
  std::future<std::vector<HostView>> pending_;  // last: its destructor waits
};

}  // namespace quern
