#include "pipeline/prediction/made_up_ids.h"

#include <algorithm>
#include <random>
#include <vector>

#include "workers/tensors/safetensors.h"

namespace quern {
namespace {

constexpr std::int64_t kBytesPerToken = 4;

}  // namespace

bool has_tokenizer(const std::filesystem::path& folder) {
  using std::filesystem::exists;
  return exists(folder / "tokenizer.json") ||
         (exists(folder / "vocab.json") && exists(folder / "merges.txt"));
}

std::int64_t guessed_windows(const TextConfig& text) {
  std::int64_t bytes = 0;
  for (const std::filesystem::path& source : text.source) {
    bytes += static_cast<std::int64_t>(std::filesystem::file_size(source));
  }
  if (text.max_characters > 0) bytes = std::min(bytes, text.max_characters);
  return std::max<std::int64_t>(1, bytes / kBytesPerToken / text.sequence_length);
}

void write_made_up_ids(const std::filesystem::path& file, std::int64_t windows, std::int64_t length,
                       std::int64_t vocabulary) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(windows * length));
  std::mt19937_64 random(0);
  for (std::int32_t& id : ids) {
    id = static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(vocabulary));
  }
  SafetensorsWriter writer(file, {{"input_ids", DType::i32, {windows, length}}});
  writer.write("input_ids", std::as_bytes(std::span(ids)));
  writer.commit();
}

void take_ids_from(const std::filesystem::path& file, TextConfig& text) {
  text.source = {file};
  text.max_characters = 0;
  text.bos = BosPolicy::automatic;
}

}  // namespace quern
