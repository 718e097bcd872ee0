#include "workers/tensors/tensor_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "kernels/core/error.h"
#include "workers/files/hash.h"
#include "workers/files/json_file.h"
#include "workers/tensors/safetensors.h"
#include "workers/tensors/safetensors_header.h"
#include "workers/tensors/torch_file.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

/// Files of a checkpoint in one format.
struct Layout {
  const char* single;
  const char* index;
  std::unique_ptr<TensorFile> (*open)(const fs::path&);
};

template <typename File>
std::unique_ptr<TensorFile> open_file(const fs::path& path) {
  return std::make_unique<File>(path);
}

/// In order of preference, which is Hugging Face's.
constexpr std::array kLayouts = {
    Layout{"model.safetensors", "model.safetensors.index.json", open_file<SafetensorsFile>},
    Layout{"pytorch_model.bin", "pytorch_model.bin.index.json", open_file<TorchFile>},
};
constexpr const char* kSqueezeConfig = "quant_config.json";
constexpr std::uint64_t kSampleBytes = 64 << 10;
constexpr std::uint64_t kSamples = 64;

bool present(const fs::path& path) {
  std::error_code ignored;  // what cannot be examined will fail with a reason when it is opened
  return fs::status(path, ignored).type() != fs::file_type::not_found;
}

void check_shard_name(const fs::path& index, const std::string& tensor, const std::string& shard) {
  // A symbolic link may leave the folder (download caches use them); a name may not.
  if (shard.empty() || shard == "." || shard == ".." || shard.find('/') != std::string::npos ||
      shard.find('\0') != std::string::npos) {
    throw InputError(
        fmt::format("{}: weight_map: tensor {} is in {}, expected the plain name of a "
                    "file in the same folder",
                    index.string(), shown(tensor), shown(shard)));
  }
}

/// Tensor name -> shard file name.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const nlohmann::json index = read_json_file(path);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    throw InputError(
        fmt::format("{}: expected an object with the object weight_map, tensor name "
                    "to shard file",
                    path.string()));
  }
  std::map<std::string, std::string> shard_of;
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    if (!shard.is_string()) {
      throw InputError(fmt::format("{}: weight_map: tensor {} is in {}, expected a file name",
                                   path.string(), shown(tensor), shown(shard)));
    }
    check_shard_name(path, tensor, shard.get_ref<const std::string&>());
    shard_of.emplace(tensor, shard.get<std::string>());
  }
  if (shard_of.empty()) {
    throw InputError(fmt::format("{}: weight_map is empty, expected tensors", path.string()));
  }
  return shard_of;
}

/// Shard file name -> how many tensors the index puts there.
std::map<std::string, std::size_t> count_by_shard(
    const std::map<std::string, std::string>& shard_of) {
  std::map<std::string, std::size_t> counts;
  for (const auto& [tensor, shard] : shard_of) ++counts[shard];
  return counts;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

/// All that are missing, so that one look tells what to download.
void check_shards_present(const fs::path& index, const std::map<std::string, std::size_t>& shards) {
  std::string missing;
  for (const auto& [shard, tensors] : shards) {
    if (!present(index.parent_path() / shard)) {
      missing += fmt::format("{}{} ({} tensors)", missing.empty() ? "" : ", ", shard, tensors);
    }
  }
  if (!missing.empty()) {
    throw InputError(fmt::format("{}: shards named by {} are missing: {}; download them",
                                 index.parent_path().string(), index.filename().string(), missing));
  }
}

/// The weights of a SqueezeLLM folder.
fs::path the_pt_file(const fs::path& folder) {
  std::vector<std::string> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".pt") found.push_back(entry.path().filename().string());
  }
  if (found.size() == 1) return folder / found.front();
  std::ranges::sort(found);
  throw InputError(fmt::format("{}: a folder with {} holds {} .pt files{}{}, expected one",
                               folder.string(), kSqueezeConfig, found.size(),
                               found.empty() ? "" : ": ", joined(found)));
}

}  // namespace

void StoredTensor::read(std::uint64_t offset, std::span<std::byte> out) const {
  ensure(offset <= bytes && out.size() <= bytes - offset, "a part of the tensor");
  file->read_at(begin + offset, out);
}

TensorSource::TensorSource(fs::path folder) : folder_(std::move(folder)) {
  std::error_code ignored;
  if (!fs::is_directory(folder_, ignored)) {
    throw InputError(
        fmt::format("{}: not a folder, expected a Hugging Face model folder", folder_.string()));
  }
  open();
}

void TensorSource::open() {
  for (const Layout& layout : kLayouts) {
    // Hugging Face prefers the single file where both exist; so do we.
    if (present(folder_ / layout.single)) return add_shard(layout.open(folder_ / layout.single));
    const fs::path index = folder_ / layout.index;
    if (!present(index)) continue;
    const auto shard_of = read_index(index);
    const auto counts = count_by_shard(shard_of);
    check_shards_present(index, counts);
    for (const auto& [shard, tensors] : counts) add_shard(layout.open(folder_ / shard));
    return check_index(index, shard_of);
  }
  if (present(folder_ / kSqueezeConfig)) {
    return add_shard(std::make_unique<TorchFile>(the_pt_file(folder_)));
  }
  throw InputError(fmt::format(
      "{}: found neither {} nor {}, nor {} nor {}; expected a Hugging Face model folder "
      "with weights",
      folder_.string(), kLayouts[0].single, kLayouts[0].index, kLayouts[1].single,
      kLayouts[1].index));
}

void TensorSource::add_shard(std::unique_ptr<TensorFile> file) {
  shards_.push_back(std::move(file));
  for (const auto& [name, entry] : shards_.back()->entries()) {
    const auto [place, inserted] = location_.emplace(name, shards_.size() - 1);
    if (!inserted) {
      throw InputError(fmt::format("{}: tensor {} is in two shards, {} and {}, expected one",
                                   folder_.string(), shown(name), shard_name(name),
                                   shards_.back()->path().filename().string()));
    }
  }
}

void TensorSource::check_index(const fs::path& index,
                               const std::map<std::string, std::string>& shard_of) const {
  for (const auto& [name, shard] : shard_of) {
    if (!contains(name)) {
      throw InputError(
          fmt::format("{}: tensor {} is not in {}, nor in any other shard; the index "
                      "and the shards are of different models or versions",
                      index.string(), shown(name), shard));
    }
    if (shard_name(name) != shard) {
      throw InputError(fmt::format("{}: tensor {} is said to be in {}, but is in {}",
                                   index.string(), shown(name), shard, shard_name(name)));
    }
  }
  for (const auto& [name, shard] : location_) {
    if (!shard_of.contains(name)) {
      throw InputError(
          fmt::format("{}: tensor {} of {} is not in weight_map; the index and the "
                      "shards are of different models or versions",
                      index.string(), shown(name), shard_name(name)));
    }
  }
}

const TensorFile& TensorSource::shard(const std::string& name) const {
  const auto found = location_.find(name);
  if (found == location_.end()) {
    throw InputError(
        fmt::format("{}: the model has no tensor {}; check that config.json belongs to "
                    "these weights",
                    folder_.string(), shown(name)));
  }
  return *shards_[found->second];
}

const TensorEntry& TensorSource::entry(const std::string& name) const {
  return shard(name).entries().at(name);
}

std::string TensorSource::shard_name(const std::string& name) const {
  return shard(name).path().filename().string();
}

std::vector<std::string> TensorSource::names() const {
  std::vector<std::string> result;
  result.reserve(location_.size());
  for (const auto& [name, shard] : location_) result.push_back(name);
  return result;
}

std::optional<std::int64_t> TensorSource::scalar(const std::string& name) const {
  for (const auto& file : shards_) {
    const auto found = file->scalars().find(name);
    if (found != file->scalars().end()) return found->second;
  }
  return std::nullopt;
}

HostTensor TensorSource::read(const std::string& name) const {
  const TensorFile& file = shard(name);
  const TensorEntry& place = file.entries().at(name);
  HostTensor tensor(place.dtype, place.shape);
  file.read(place, tensor.bytes);
  return tensor;
}

std::optional<StoredTensor> TensorSource::stored(const std::string& name) const {
  const TensorFile& file = shard(name);
  const TensorEntry& place = file.entries().at(name);
  if (!place.strides.empty()) return std::nullopt;
  return StoredTensor{&file, place.dtype, place.begin, place.bytes};
}

std::string TensorSource::fingerprint() const {
  Xxh3Stream hash;
  std::vector<std::byte> sample;
  for (const auto& file : shards_) {
    const std::string line = fmt::format("{} {}\n", file->file_bytes(), file->header_hash());
    hash.update(std::as_bytes(std::span(line)));
    const bool whole = file->file_bytes() <= kSamples * kSampleBytes;
    sample.resize(whole ? file->file_bytes() : kSampleBytes);
    const std::uint64_t last = file->file_bytes() - sample.size();
    for (std::uint64_t i = 0; i < (whole ? 1 : kSamples); ++i) {
      file->read_at(last * i / (kSamples - 1), sample);
      hash.update(sample);
    }
  }
  return hash.hex();
}

}  // namespace quern
