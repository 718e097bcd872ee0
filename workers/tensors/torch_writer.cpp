#include "workers/tensors/torch_writer.h"

#include <string_view>
#include <utility>

#include "workers/tensors/crc32.h"
#include "workers/tensors/pickle.h"

namespace quern {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

}  // namespace

TorchWriter::TorchWriter(const std::filesystem::path& path, std::vector<TensorSpec> specs,
                         const std::vector<NamedScalar>& scalars, CommitHook hook)
    : TensorWriter(std::move(specs)), file_(path, std::move(hook)) {
  add_entry("data.pkl", bytes_of(format_pickle(this->specs(), scalars)));
  add_entry("byteorder", bytes_of("little"));
}

void TorchWriter::append(std::span<const std::byte> bytes) {
  add_entry("data/" + std::to_string(storages_++), bytes);
}

std::string TorchWriter::finish() {
  add_entry("version", bytes_of("3\n"));
  file_.write(zip_directory(records_, written_));
  return file_.commit();
}

void TorchWriter::add_entry(const std::string& name, std::span<const std::byte> bytes) {
  const ZipRecord record{"archive/" + name, crc32(bytes), bytes.size(), written_};
  const std::string header = zip_local_header(record);
  file_.write(header);
  file_.write(bytes);
  written_ += header.size() + bytes.size();
  records_.push_back(record);
}

}  // namespace quern
