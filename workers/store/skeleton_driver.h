#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "workers/store/hdf5_library.h"

namespace quern::hdf5 {

/// Bytes of a file, most of which are zero and take no memory.
class SparseBytes {
 public:
  void write(std::uint64_t begin, std::span<const std::byte> bytes);
  /// Appends what lies in [begin, end), as views that stay valid until the next write there.
  void view(std::uint64_t begin, std::uint64_t end,
            std::vector<std::span<const std::byte>>& views) const;

  std::uint64_t size() const noexcept { return size_; }
  void resize(std::uint64_t bytes) noexcept { size_ = bytes; }

 private:
  static constexpr std::size_t kPageBytes = 4096;
  using Page = std::array<std::byte, kPageBytes>;
  static const Page kZeros;

  std::map<std::uint64_t, Page> pages_;  ///< by number; what is not here is zero
  std::uint64_t size_ = 0;
};

/// A new file that libhdf5 keeps in `structure`, except its raw data: those it drops without
/// reading the caller's memory. Nothing on disk is touched. `structure` must outlive the file.
File create_skeleton(const Place& place, SparseBytes& structure);

}  // namespace quern::hdf5
