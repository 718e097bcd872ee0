#include "workers/tensors/torch_writer.h"

#include <zlib.h>

#include <string_view>
#include <utility>

#include "workers/tensors/pickle.h"

namespace quern {
namespace {

constexpr std::string_view kByteOrder = "little";
constexpr std::string_view kVersion = "3\n";
constexpr std::size_t kBeforeTensors = 2;  ///< entries: byte order and version

/// The CRC-32 of zip files of bytes with one that is known and `next` behind them.
std::uint32_t crc32_with(std::uint32_t known, std::span<const std::byte> next) {
  const auto* data = reinterpret_cast<const Bytef*>(next.data());
  return next.empty() ? known : static_cast<std::uint32_t>(crc32_z(known, data, next.size()));
}

std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

}  // namespace

TorchWriter::TorchWriter(const std::filesystem::path& path, CommitHook hook)
    : file_(path, 0, std::move(hook)) {
  put(add_record("byteorder", kByteOrder.size()), 0, as_bytes(kByteOrder));
  put(add_record("version", kVersion.size()), 0, as_bytes(kVersion));
}

void TorchWriter::add(std::span<const TensorSpec> specs) {
  const std::lock_guard lock(mutex_);
  announce(specs);
  for (const TensorSpec& spec : specs) {
    add_record("data/" + std::to_string(records_.size() - kBeforeTensors), bytes_of(spec));
  }
}

/// Makes room for an entry behind the others; it gets its checksum with its contents.
std::size_t TorchWriter::add_record(const std::string& name, std::uint64_t bytes) {
  records_.push_back({"archive/" + name, 0, bytes, end_});
  const std::uint64_t size = zip_local_header(records_.back()).size() + bytes;
  file_.grow(size);
  end_ += size;
  return records_.size() - 1;
}

void TorchWriter::place(std::size_t index, std::uint64_t offset, std::span<const std::byte> bytes) {
  put(kBeforeTensors + index, offset, bytes);
}

/// Bytes of a record's contents; its header, which knows their checksum, comes with the last.
void TorchWriter::put(std::size_t record, std::uint64_t offset, std::span<const std::byte> bytes) {
  std::unique_lock lock(mutex_);
  ZipRecord entry = records_[record];
  lock.unlock();
  entry.crc32 = crc32_with(entry.crc32, bytes);
  const std::string header = zip_local_header(entry);
  file_.write_at(entry.header + header.size() + offset, bytes);
  if (offset + bytes.size() == entry.bytes) file_.write_at(entry.header, as_bytes(header));
  lock.lock();
  records_[record].crc32 = entry.crc32;
}

std::string TorchWriter::finish() {
  const std::string pickle = format_pickle(specs(), scalars_);
  put(add_record("data.pkl", pickle.size()), 0, as_bytes(pickle));
  const std::string directory = zip_directory(records_, end_);
  file_.grow(directory.size());
  file_.write_at(end_, as_bytes(directory));
  return file_.commit();
}

}  // namespace quern
