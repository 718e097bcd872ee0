#include "workers/store/skeleton_driver.h"

#include <algorithm>
#include <new>

namespace quern::hdf5 {

const SparseBytes::Page SparseBytes::kZeros{};

void SparseBytes::write(std::uint64_t begin, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    Page& page = pages_.try_emplace(begin / kPageBytes).first->second;
    const std::size_t at = begin % kPageBytes;
    const std::size_t count = std::min(bytes.size(), kPageBytes - at);
    std::ranges::copy(bytes.first(count), page.begin() + static_cast<std::ptrdiff_t>(at));
    bytes = bytes.subspan(count);
    begin += count;
  }
}

void SparseBytes::view(std::uint64_t begin, std::uint64_t end,
                       std::vector<std::span<const std::byte>>& views) const {
  while (begin < end) {
    const auto page = pages_.find(begin / kPageBytes);
    const std::size_t at = begin % kPageBytes;
    const std::size_t count = std::min<std::uint64_t>(end - begin, kPageBytes - at);
    views.push_back(std::span(page == pages_.end() ? kZeros : page->second).subspan(at, count));
    begin += count;
  }
}

namespace {

struct DriverTraits {
  using Handle = hid_t;
  static constexpr Handle none() noexcept { return -1; }
  static void close(Handle handle) noexcept { H5FDunregister(handle); }
};
using Driver = UniqueHandle<DriverTraits>;

struct OpenSkeleton {
  H5FD_t library;  // first: the address of this object, as libhdf5 knows it
  SparseBytes* structure;
};

SparseBytes& structure_of(const H5FD_t* file) noexcept {
  return *reinterpret_cast<const OpenSkeleton*>(file)->structure;
}

H5FD_t* open_skeleton(const char*, unsigned, hid_t access, haddr_t) noexcept {
  const auto* structure = static_cast<SparseBytes* const*>(H5Pget_driver_info(access));
  if (structure == nullptr) return nullptr;
  return reinterpret_cast<H5FD_t*>(new (std::nothrow) OpenSkeleton{{}, *structure});
}

herr_t close_skeleton(H5FD_t* file) noexcept {
  delete reinterpret_cast<OpenSkeleton*>(file);
  return 0;
}

herr_t query_features(const H5FD_t*, unsigned long* features) noexcept {
  *features = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_AGGREGATE_SMALLDATA;
  return 0;
}

haddr_t end_of(const H5FD_t* file, H5FD_mem_t) noexcept {
  return structure_of(file).size();
}

herr_t set_end(H5FD_t* file, H5FD_mem_t, haddr_t end) noexcept {
  structure_of(file).resize(end);
  return 0;
}

herr_t read_structure(H5FD_t* file, H5FD_mem_t, hid_t, haddr_t begin, std::size_t bytes,
                      void* out) noexcept try {
  std::vector<std::span<const std::byte>> views;
  structure_of(file).view(begin, begin + bytes, views);
  auto* to = static_cast<std::byte*>(out);
  for (const auto view : views) to = std::ranges::copy(view, to).out;
  return 0;
} catch (...) {
  return -1;
}

herr_t write_structure(H5FD_t* file, H5FD_mem_t kind, hid_t, haddr_t begin, std::size_t bytes,
                       const void* from) noexcept try {
  if (kind == H5FD_MEM_DRAW) return 0;
  structure_of(file).write(begin, {static_cast<const std::byte*>(from), bytes});
  return 0;
} catch (...) {
  return -1;
}

/// Since 1.13 the class of a driver has a version, and a number from a range for private use.
template <typename Class>
void number(Class& driver) {
  if constexpr (requires { driver.version; }) {
    driver.version = 1;
    driver.value = 600;
  }
}

H5FD_class_t driver_class() {
  H5FD_class_t driver{};
  number(driver);
  driver.name = "skeleton";
  driver.maxaddr = HADDR_MAX;
  driver.fc_degree = H5F_CLOSE_WEAK;
  driver.fapl_size = sizeof(SparseBytes*);
  driver.open = open_skeleton;
  driver.close = close_skeleton;
  driver.query = query_features;
  driver.get_eoa = end_of;
  driver.set_eoa = set_end;
  driver.get_eof = end_of;
  driver.read = read_structure;
  driver.write = write_structure;
  std::ranges::copy(std::to_array<H5FD_mem_t>(H5FD_FLMAP_DICHOTOMY), driver.fl_map);
  return driver;
}

}  // namespace

File create_skeleton(const Place& place, SparseBytes& structure) {
  const H5FD_class_t own = driver_class();
  const Driver driver(checked(H5FDregister(&own), place, "register a driver"));
  const Properties access(checked(H5Pcreate(H5P_FILE_ACCESS), place, "make properties"));
  SparseBytes* const settings = &structure;
  checked(H5Pset_driver(access.get(), driver.get(), &settings), place, "choose the driver");
  return File(checked(H5Fcreate(place.file.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.get()),
                      place, "make a file in memory"));
}

}  // namespace quern::hdf5
