#include "workers/store/hdf5_library.h"

#include <fmt/format.h>

#include <bit>

#include "kernels/core/error.h"

namespace quern::hdf5 {
namespace {

static_assert(std::endian::native == std::endian::little,
              "arrays are stored as they lie in memory");

std::mutex& library_mutex() {
  static std::mutex mutex;  // guards the library's own global state
  return mutex;
}

herr_t take_first(unsigned position, const H5E_error2_t* error, void* text) noexcept {
  if (position == 0 && error->desc != nullptr) {
    try {
      *static_cast<std::string*>(text) = error->desc;
    } catch (...) {
      return -1;
    }
  }
  return 0;
}

hid_t standard_type(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return H5T_IEEE_F64LE;
    case DType::f32:
    case DType::f16:
      return H5T_IEEE_F32LE;
    case DType::bf16:
      return H5T_STD_U16LE;
    case DType::i64:
      return H5T_STD_I64LE;
    case DType::i32:
      return H5T_STD_I32LE;
    case DType::i16:
      return H5T_STD_I16LE;
    case DType::i8:
      return H5T_STD_I8LE;
    case DType::f8_e4m3:
    case DType::f8_e5m2:
    case DType::u8:
    case DType::boolean:
      return H5T_STD_U8LE;
  }
  return -1;
}

}  // namespace

Turn::Turn() : lock_(library_mutex()) {
  H5Eget_auto2(H5E_DEFAULT, &printer_, &printer_context_);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

Turn::~Turn() {
  H5Eset_auto2(H5E_DEFAULT, printer_, printer_context_);
}

void fail(const Place& place, std::string_view problem) {
  throw StoreError(fmt::format(
      "{}: {}{}; set the file aside and run again: it will be made anew", place.file.string(),
      place.object.empty() ? "" : fmt::format("dataset {}: ", place.object), problem));
}

void fail_in_library(const Place& place, std::string_view operation) {
  std::string reason = "no reason given";
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_first, &reason);
  fail(place, fmt::format("HDF5 failed to {}: {}", operation, reason));
}

void close_dataset(Dataset& dataset, const Place& place) {
  checked(H5Dclose(dataset.release()), place, "close a dataset");
}

void close_file(File& file, const Place& place) {
  checked(H5Fclose(file.release()), place, "close the file");
}

Type stored_type(DType dtype, const Place& place) {
  Type type(checked(H5Tcopy(standard_type(dtype)), place, "copy a type"));
  if (dtype == DType::f16) {  // sign 1, exponent 5 at bit 10 with bias 15, mantissa 10
    checked(H5Tset_fields(type.get(), 15, 10, 5, 0, 10), place, "define the half type");
    checked(H5Tset_size(type.get(), 2), place, "define the half type");
    checked(H5Tset_ebias(type.get(), 15), place, "define the half type");
  }
  return type;
}

}  // namespace quern::hdf5
