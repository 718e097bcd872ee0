#include "kernels/memory.h"

#include <fmt/format.h>

#include "kernels/core/error.h"

namespace quern {
namespace {

void check_bytes(const char* operation, std::size_t host, const ConstTensorView& device) {
  if (host != device.bytes()) {
    throw ShapeError(fmt::format("{}: {} host bytes for a {} tensor of shape {}", operation, host,
                                 dtype_name(device.dtype), device.shape.text()));
  }
}

}  // namespace

Tensor Memory::allocate(DType dtype, const Shape& shape) {
  const std::size_t bytes = TensorView{nullptr, dtype, shape}.bytes();
  return {do_allocate(bytes), [this, bytes](std::byte* data) { do_free(data, bytes); }, dtype,
          shape};
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
