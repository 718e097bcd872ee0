#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/core/dtype.h"
#include "kernels/core/shape.h"
#include "workers/tensors/readable_file.h"

namespace quern {

/// Where one tensor lies in one file.
struct TensorEntry {
  DType dtype = DType::f32;
  Shape shape{0};
  std::uint64_t begin = 0;  ///< absolute offset in the file of the first element
  std::uint64_t bytes = 0;  ///< of all elements
  /// Distance of neighbours along each axis, in elements; empty: contiguous, row major.
  std::vector<std::int64_t> strides;
};

/// Name, type and shape of a tensor to be written.
struct TensorSpec {
  std::string name;
  DType dtype = DType::f32;
  Shape shape{0};
};

/// A whole number that a file keeps between its tensors.
struct NamedScalar {
  std::string name;
  std::int64_t value = 0;
};

/// A file of tensors, opened and checked by the constructor of its format. Reading is thread-safe.
class TensorFile {
 public:
  virtual ~TensorFile() = default;
  TensorFile(const TensorFile&) = delete;             // owns the open file
  TensorFile& operator=(const TensorFile&) = delete;  // likewise

  const std::filesystem::path& path() const noexcept { return file_.path(); }
  const std::map<std::string, TensorEntry>& entries() const noexcept { return entries_; }
  /// Whole numbers between the tensors; safetensors files have none.
  const std::map<std::string, std::int64_t>& scalars() const noexcept { return scalars_; }
  std::uint64_t file_bytes() const noexcept { return file_.bytes(); }
  /// xxh3_hex of what describes the tensors: names, types, shapes and places.
  const std::string& header_hash() const noexcept { return header_hash_; }

  /// Elements of a tensor, contiguous and row major, into `out` (its exact size). StoreError on a
  /// read error.
  virtual void read(const TensorEntry& entry, std::span<std::byte> out) const = 0;
  /// Any bytes of the file, for fingerprints.
  void read_at(std::uint64_t offset, std::span<std::byte> out) const { file_.read_at(offset, out); }

 protected:
  explicit TensorFile(std::filesystem::path path) : file_(std::move(path)) {}

  ReadableFile file_;
  std::map<std::string, TensorEntry> entries_;
  std::map<std::string, std::int64_t> scalars_;
  std::string header_hash_;
};

/// Writes one file of tensors, whose data may come in any order once they are announced. Nothing
/// has its final name before commit().
class TensorWriter {
 public:
  virtual ~TensorWriter() = default;
  TensorWriter(const TensorWriter&) = delete;             // owns the open file
  TensorWriter& operator=(const TensorWriter&) = delete;  // likewise

  /// What was announced, in the order in which data lie in the file. Its SHA-256 is taken in this
  /// order, in the background. Not while some are being announced.
  const std::vector<TensorSpec>& specs() const noexcept { return specs_; }
  /// All data of a tensor. Thread-safe. Throws InternalError if there is no such tensor, some of it
  /// was written before or the size differs.
  void write(std::string_view name, std::span<const std::byte> bytes);
  /// The next piece of a tensor's data: thread-safe, one piece of a tensor at a time. Throws
  /// InternalError if there is no such tensor or it has no room for them.
  void append(std::string_view name, std::span<const std::byte> piece);
  /// SHA-256 of the whole file. Throws InternalError if tensors are missing.
  std::string commit();

 protected:
  TensorWriter() = default;
  /// Behind those that are there; returns specs(). Thread-safe. Throws InternalError if a name is
  /// there already.
  const std::vector<TensorSpec>& announce(std::span<const TensorSpec> specs);

 private:
  struct Announced {
    std::size_t index;
    bool begun = false;
    std::uint64_t written = 0;  ///< bytes
  };

  /// Data of specs()[index] from byte `offset` on; from any thread, pieces of one tensor in order.
  virtual void place(std::size_t index, std::uint64_t offset, std::span<const std::byte> bytes) = 0;
  virtual std::string finish() = 0;
  Announced& find(std::string_view name);
  Announced advance(std::string_view name, std::uint64_t bytes, bool whole);

  std::mutex mutex_;  ///< guards the two below
  std::vector<TensorSpec> specs_;
  std::map<std::string, Announced, std::less<>> by_name_;
};

/// Bytes of a tensor's data.
std::uint64_t bytes_of(const TensorSpec& spec);

}  // namespace quern
