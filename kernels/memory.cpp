#include "kernels/memory.h"

#include <fmt/format.h>

#include <new>

#include "kernels/core/error.h"

namespace quern {
namespace {

void check_bytes(const char* operation, std::size_t host, const ConstTensorView& device) {
  if (host != device.bytes()) {
    throw ShapeError(fmt::format("{}: {} host bytes for a {} tensor of shape {}", operation, host,
                                 dtype_name(device.dtype), device.shape.text()));
  }
}

constexpr std::align_val_t kHostAlignment{4096};

double gigabytes(std::size_t bytes) {
  return static_cast<double>(bytes) / 1e9;
}

}  // namespace

void Memory::count(std::size_t bytes) noexcept {
  const std::size_t used = used_bytes_ += bytes;
  std::size_t peak = peak_bytes_;
  while (peak < used && !peak_bytes_.compare_exchange_weak(peak, used)) {
  }
}

Tensor Memory::allocate(DType dtype, const Shape& shape) {
  const std::size_t bytes = TensorView{nullptr, dtype, shape}.bytes();
  if (bytes > free_bytes()) {
    throw MemoryError(fmt::format(
        "device memory: {} bytes refused: {} are in use and {} are allowed ({:.2f} of {:.2f} GB); "
        "use a smaller micro_batch, a larger run.gpu_memory, a device with more memory or fewer "
        "ranks on it",
        bytes, used_bytes(), limit_bytes(), gigabytes(used_bytes()), gigabytes(limit_bytes())));
  }
  std::byte* const data = do_allocate(bytes);
  count(bytes);
  const auto release = [this, bytes](std::byte* tensor) {
    do_free(tensor, bytes);
    used_bytes_ -= bytes;
  };
  return {data, release, dtype, shape};
}

HostBuffer Memory::allocate_host(std::size_t bytes) {
  return do_allocate_host(bytes);
}

HostBuffer Memory::do_allocate_host(std::size_t bytes) {
  void* data = ::operator new(bytes, kHostAlignment, std::nothrow);
  if (data == nullptr) {
    throw MemoryError(fmt::format(
        "host memory: {} bytes refused by the system for what the device cannot hold; "
        "use a machine with more memory, fewer ranks on it or fewer calibration samples",
        bytes));
  }
  const auto release = [](std::byte* buffer) { ::operator delete(buffer, kHostAlignment); };
  return {static_cast<std::byte*>(data), release, bytes};
}

void Memory::upload(std::span<const std::byte> host, TensorView device) {
  check_bytes("upload", host.size(), device);
  if (!host.empty()) do_upload(host, device.data);
}

void Memory::download(ConstTensorView device, std::span<std::byte> host) {
  check_bytes("download", host.size(), device);
  if (!host.empty()) do_download(device.data, host);
}

void Memory::copy(ConstTensorView from, TensorView to) {
  if (from.dtype != to.dtype || from.elems() != to.elems()) {
    throw ShapeError(fmt::format("copy: {} {} into {} {}", dtype_name(from.dtype),
                                 from.shape.text(), dtype_name(to.dtype), to.shape.text()));
  }
  if (from.elems() > 0) do_copy(from.data, to.data, from.bytes());
}

void Memory::clear(TensorView view) {
  if (view.elems() > 0) do_clear(view.data, view.bytes());
}

Tensor Memory::to_device(const HostTensor& host) {
  Tensor device = allocate(host.dtype, host.shape);
  upload(host.bytes, device.view());
  synchronize();
  return device;
}

HostTensor Memory::to_host(ConstTensorView device) {
  HostTensor host(device.dtype, device.shape);
  download(device, host.bytes);
  synchronize();
  return host;
}

}  // namespace quern
