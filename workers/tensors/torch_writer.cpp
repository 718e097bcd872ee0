#include "workers/tensors/torch_writer.h"

#include <string_view>
#include <utility>

#include "workers/tensors/crc32.h"
#include "workers/tensors/pickle.h"

namespace quern {
namespace {

constexpr std::string_view kByteOrder = "little";
constexpr std::string_view kVersion = "3\n";
constexpr std::size_t kBeforeTensors = 2;  ///< entries: the pickle and the byte order

std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

std::uint64_t end_of(const ZipRecord& record) {
  return record.header + zip_local_header(record).size() + record.bytes;
}

/// All entries at their places, without their checksums.
std::vector<ZipRecord> lay_out(std::uint64_t pickle_bytes, std::span<const TensorSpec> specs) {
  std::vector<ZipRecord> records;
  const auto add = [&](const std::string& name, std::uint64_t bytes) {
    records.push_back({"archive/" + name, 0, bytes, records.empty() ? 0 : end_of(records.back())});
  };
  add("data.pkl", pickle_bytes);
  add("byteorder", kByteOrder.size());
  for (std::size_t i = 0; i < specs.size(); ++i) {
    add("data/" + std::to_string(i), bytes_of(specs[i]));
  }
  add("version", kVersion.size());
  return records;
}

}  // namespace

TorchWriter::TorchWriter(const std::filesystem::path& path, std::vector<TensorSpec> specs,
                         const std::vector<NamedScalar>& scalars, CommitHook hook)
    : TensorWriter(std::move(specs)),
      pickle_(format_pickle(this->specs(), scalars)),
      records_(lay_out(pickle_.size(), this->specs())),
      directory_(end_of(records_.back())),
      file_(path, directory_ + zip_directory(records_, directory_).size(), std::move(hook)) {
  put(0, as_bytes(pickle_));
  put(1, as_bytes(kByteOrder));
  put(records_.size() - 1, as_bytes(kVersion));
}

void TorchWriter::place(std::size_t index, std::span<const std::byte> bytes) {
  put(kBeforeTensors + index, bytes);
}

std::string TorchWriter::finish() {
  file_.write_at(directory_, as_bytes(zip_directory(records_, directory_)));
  return file_.commit();
}

void TorchWriter::put(std::size_t entry, std::span<const std::byte> bytes) {
  ZipRecord& record = records_[entry];
  record.crc32 = crc32(bytes);
  const std::string header = zip_local_header(record);
  file_.write_at(record.header, as_bytes(header));
  file_.write_at(record.header + header.size(), bytes);
}

}  // namespace quern
