#include "kernels/cuda/stream.h"

#include "kernels/cuda/errors.h"

namespace quern {
namespace {

UniqueStream make_stream(int device, int priority) {
  use_device(device);
  UniqueStream stream;
  check_cuda(cudaStreamCreateWithPriority(stream.put(), cudaStreamNonBlocking, priority),
             "create stream");
  return stream;
}

}  // namespace

UniqueStream make_stream(int device) {
  return make_stream(device, 0);
}

UniqueStream make_urgent_stream(int device) {
  use_device(device);
  int greatest = 0;
  check_cuda(cudaDeviceGetStreamPriorityRange(nullptr, &greatest), "create stream");
  return make_stream(device, greatest);
}

UniqueEvent make_event() {
  UniqueEvent event;
  check_cuda(cudaEventCreateWithFlags(event.put(), cudaEventDisableTiming), "create event");
  return event;
}

StreamTimer::StreamTimer(cudaStream_t stream) : stream_(stream) {
  check_cuda(cudaEventCreate(begin_.put()), "create timer");
  check_cuda(cudaEventCreate(end_.put()), "create timer");
}

void StreamTimer::begin() {
  check_cuda(cudaEventRecord(begin_.get(), stream_), "start timer");
}

double StreamTimer::seconds_since_begin() {
  check_cuda(cudaEventRecord(end_.get(), stream_), "stop timer");
  check_cuda(cudaEventSynchronize(end_.get()), "stop timer");
  float milliseconds = 0.0F;
  check_cuda(cudaEventElapsedTime(&milliseconds, begin_.get(), end_.get()), "read timer");
  return static_cast<double>(milliseconds) * 1e-3;
}

}  // namespace quern
