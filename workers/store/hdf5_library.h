#pragma once

#include <hdf5.h>

#include <filesystem>
#include <mutex>
#include <string>
#include <string_view>

#include "kernels/core/dtype.h"
#include "kernels/core/unique_handle.h"

namespace quern::hdf5 {

template <herr_t (*close_function)(hid_t)>
struct HandleTraits {
  using Handle = hid_t;
  static constexpr Handle none() noexcept { return -1; }
  static void close(Handle handle) noexcept { close_function(handle); }
};
using File = UniqueHandle<HandleTraits<H5Fclose>>;
using Object = UniqueHandle<HandleTraits<H5Oclose>>;
using Dataset = UniqueHandle<HandleTraits<H5Dclose>>;
using Space = UniqueHandle<HandleTraits<H5Sclose>>;
using Type = UniqueHandle<HandleTraits<H5Tclose>>;
using Attribute = UniqueHandle<HandleTraits<H5Aclose>>;
using Properties = UniqueHandle<HandleTraits<H5Pclose>>;

/// Held around all use of libhdf5: one thread at a time (the library is not thread-safe), and
/// without its own printing of errors to stderr.
class Turn {
 public:
  Turn();
  ~Turn();
  Turn(const Turn&) = delete;             // a lock
  Turn& operator=(const Turn&) = delete;  // likewise

 private:
  std::lock_guard<std::mutex> lock_;
  H5E_auto2_t printer_ = nullptr;
  void* printer_context_ = nullptr;
};

/// Where an operation happens, for errors.
struct Place {
  std::filesystem::path file;
  std::string object = {};  ///< empty for the file itself
};

/// Throws StoreError "<file>: dataset <object>: <problem>; <what to do>".
[[noreturn]] void fail(const Place& place, std::string_view problem);
/// The same with the innermost message of libhdf5's error stack.
[[noreturn]] void fail_in_library(const Place& place, std::string_view operation);

/// The result of a libhdf5 call. Throws StoreError if it is negative, which means failure.
template <typename Result>
Result checked(Result result, const Place& place, std::string_view operation) {
  if (result < 0) fail_in_library(place, operation);
  return result;
}

/// Close with a check: what is still cached is written here.
void close_dataset(Dataset& dataset, const Place& place);
void close_file(File& file, const Place& place);

/// The type an array is stored as; on this little-endian host also the type in memory.
Type stored_type(DType dtype, const Place& place);

}  // namespace quern::hdf5
