#pragma once

#include <memory>
#include <string>

#include "kernels/memory.h"

namespace quern {

/// The stream of a CUDA backend, for a library that puts work of its own on it.
class CudaStream {
 public:
  virtual ~CudaStream() = default;
  CudaStream() = default;
  CudaStream(const CudaStream&) = delete;             // owns a mark in the stream
  CudaStream& operator=(const CudaStream&) = delete;  // likewise

  /// A cudaStream_t; the memory's.
  virtual void* handle() const noexcept = 0;

  /// Sets the mark behind everything issued so far.
  virtual void mark() = 0;
  /// True once everything before the mark is done; does not wait. DeviceError if any of it failed.
  virtual bool has_passed_mark() = 0;
};

/// memory: a CUDA backend's, which must outlive the result; InternalError for another one.
std::unique_ptr<CudaStream> make_cuda_stream(Memory& memory);

/// "0000:3b:00.0", where the device sits in its host: two processes with the same one share it.
/// Throws ConfigError if there is no such device.
std::string cuda_device_address(int device);

}  // namespace quern
