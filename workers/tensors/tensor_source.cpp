#include "workers/tensors/tensor_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "kernels/core/error.h"
#include "workers/files/hash.h"
#include "workers/files/json_file.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
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

/// All that are missing, so that one look tells what to download.
void check_shards_present(const fs::path& folder,
                          const std::map<std::string, std::size_t>& shards) {
  std::string missing;
  for (const auto& [shard, tensors] : shards) {
    if (!present(folder / shard)) {
      missing += fmt::format("{}{} ({} tensors)", missing.empty() ? "" : ", ", shard, tensors);
    }
  }
  if (!missing.empty()) {
    throw InputError(fmt::format("{}: shards named by {} are missing: {}; download them",
                                 folder.string(), kIndexFile, missing));
  }
}

}  // namespace

TensorSource::TensorSource(fs::path folder) : folder_(std::move(folder)) {
  std::error_code ignored;
  if (!fs::is_directory(folder_, ignored)) {
    throw InputError(
        fmt::format("{}: not a folder, expected a Hugging Face model folder", folder_.string()));
  }
  // Hugging Face prefers the single file where both exist; so do we.
  if (present(folder_ / kSingleFile)) {
    add_shard(kSingleFile);
    return;
  }
  if (!present(folder_ / kIndexFile)) {
    throw InputError(
        fmt::format("{}: found neither {} nor {}; expected a Hugging Face model folder "
                    "with safetensors weights (PyTorch .bin weights are not read, "
                    "convert them)",
                    folder_.string(), kSingleFile, kIndexFile));
  }
  const auto shard_of = read_index(folder_ / kIndexFile);
  const auto counts = count_by_shard(shard_of);
  check_shards_present(folder_, counts);
  for (const auto& [shard, tensors] : counts) add_shard(shard);
  check_index(shard_of);
}

void TensorSource::add_shard(const std::string& file_name) {
  shards_.push_back(std::make_unique<SafetensorsFile>(folder_ / file_name));
  for (const auto& [name, entry] : shards_.back()->entries()) {
    const auto [place, inserted] = location_.emplace(name, shards_.size() - 1);
    if (!inserted) {
      throw InputError(fmt::format("{}: tensor {} is in two shards, {} and {}, expected one",
                                   folder_.string(), shown(name), shard_name(name), file_name));
    }
  }
}

void TensorSource::check_index(const std::map<std::string, std::string>& shard_of) const {
  const std::string index = (folder_ / kIndexFile).string();
  for (const auto& [name, shard] : shard_of) {
    if (!contains(name)) {
      throw InputError(
          fmt::format("{}: tensor {} is not in {}, nor in any other shard; the index "
                      "and the shards are of different models or versions",
                      index, shown(name), shard));
    }
    if (shard_name(name) != shard) {
      throw InputError(fmt::format("{}: tensor {} is said to be in {}, but is in {}", index,
                                   shown(name), shard, shard_name(name)));
    }
  }
  for (const auto& [name, shard] : location_) {
    if (!shard_of.contains(name)) {
      throw InputError(
          fmt::format("{}: tensor {} of {} is not in weight_map; the index and the "
                      "shards are of different models or versions",
                      index, shown(name), shard_name(name)));
    }
  }
}

const SafetensorsFile& TensorSource::shard(const std::string& name) const {
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

HostTensor TensorSource::read(const std::string& name) const {
  const SafetensorsFile& file = shard(name);
  const TensorEntry& place = file.entries().at(name);
  HostTensor tensor(place.dtype, place.shape);
  file.read(place, tensor.bytes);
  return tensor;
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

void TensorPrefetch::start(std::vector<std::string> names) {
  started_.clear();
  pending_ = {};  // waits for the request it replaces
  pending_ = std::async(std::launch::async, [&source = source_, names] {
    std::vector<HostTensor> tensors;
    tensors.reserve(names.size());
    for (const std::string& name : names) tensors.push_back(source.read(name));
    return tensors;
  });
  started_ = std::move(names);
}

std::vector<HostTensor> TensorPrefetch::take(const std::vector<std::string>& names) {
  std::map<std::string, HostTensor> ready;
  const auto was_started = [this](const std::string& name) {
    return std::ranges::find(started_, name) != started_.end();
  };
  if (std::ranges::any_of(names, was_started)) {
    const std::vector<std::string> asked = std::exchange(started_, {});
    std::vector<HostTensor> tensors = pending_.get();
    for (std::size_t i = 0; i < asked.size(); ++i) ready.emplace(asked[i], std::move(tensors[i]));
  }
  std::vector<HostTensor> result;
  result.reserve(names.size());
  for (const std::string& name : names) {
    auto node = ready.extract(name);
    result.push_back(node.empty() ? source_.read(name) : std::move(node.mapped()));
  }
  return result;
}

}  // namespace quern
