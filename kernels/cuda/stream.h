#pragma once

#include "kernels/cuda/handles.h"

namespace quern {

/// A stream of `device`, independent of the default stream. Makes the device current.
UniqueStream make_stream(int device);

/// Likewise; what it holds is started before what waits on any other stream.
UniqueStream make_urgent_stream(int device);

/// For the order of work on streams; notes no time.
UniqueEvent make_event();

/// Measures work on a stream by the device's own clock.
class StreamTimer {
 public:
  explicit StreamTimer(cudaStream_t stream);

  /// Starts the clock when what was issued so far is done. Asynchronous.
  void begin();
  /// Waits for everything issued since begin() and returns how long it took.
  double seconds_since_begin();

 private:
  cudaStream_t stream_;
  UniqueEvent begin_;
  UniqueEvent end_;
};

}  // namespace quern
