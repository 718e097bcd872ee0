#include "kernels/cuda/stream.h"

#include "kernels/cuda/errors.h"

namespace quern {

UniqueStream make_stream(int device) {
  use_device(device);
  UniqueStream stream;
  check_cuda(cudaStreamCreateWithFlags(stream.put(), cudaStreamNonBlocking), "create stream");
  return stream;
}

UniqueStream make_urgent_stream(int device) {
  use_device(device);
  int least = 0;
  int greatest = 0;
  check_cuda(cudaDeviceGetStreamPriorityRange(&least, &greatest), "create stream");
  UniqueStream stream;
  check_cuda(cudaStreamCreateWithPriority(stream.put(), cudaStreamNonBlocking, greatest),
             "create stream");
  return stream;
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
