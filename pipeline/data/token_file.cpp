#include "pipeline/data/token_file.h"

#include <fmt/format.h>

#include "kernels/core/error.h"
#include "workers/tensors/npy.h"
#include "workers/tensors/safetensors.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

HostTensor read_safetensors_ids(const fs::path& path) {
  const SafetensorsFile file(path);
  const auto& entries = file.entries();
  auto entry = entries.find("input_ids");
  if (entry == entries.end() && entries.size() == 1) entry = entries.begin();
  if (entry == entries.end()) {
    throw InputError(fmt::format("{}: there is no tensor \"input_ids\" among its {} tensors",
                                 path.string(), entries.size()));
  }
  HostTensor ids(entry->second.dtype, entry->second.shape);
  file.read(entry->second, ids.bytes);
  return ids;
}

template <typename T>
std::vector<std::int64_t> widen(const HostTensor& ids) {
  const auto values = ids.as<T>();
  return {values.begin(), values.end()};
}

std::vector<std::int64_t> integers(const HostTensor& ids, const fs::path& path) {
  switch (ids.dtype) {
    case DType::i64:
      return widen<std::int64_t>(ids);
    case DType::i32:
      return widen<std::int32_t>(ids);
    case DType::i16:
      return widen<std::int16_t>(ids);
    case DType::i8:
      return widen<std::int8_t>(ids);
    case DType::u8:
      return widen<std::uint8_t>(ids);
    default:
      throw InputError(fmt::format("{}: token ids must be integers, found {}", path.string(),
                                   dtype_name(ids.dtype)));
  }
}

}  // namespace

bool is_token_file(const fs::path& path) {
  return path.extension() == ".npy" || path.extension() == ".safetensors";
}

TokenRows read_token_file(const fs::path& path, std::int64_t vocab_size) {
  const HostTensor ids = path.extension() == ".npy" ? read_npy(path) : read_safetensors_ids(path);
  const std::size_t rank = ids.shape.rank();
  if (rank != 1 && rank != 2) {
    throw InputError(fmt::format(
        "{}: token ids must have 1 axis (a stream) or 2 (windows), found {}", path.string(), rank));
  }
  const std::vector<std::int64_t> values = integers(ids, path);
  const std::int64_t columns = ids.shape[rank - 1];
  const std::int64_t rows = rank == 1 ? 1 : ids.shape[0];
  TokenRows result{.rows = {}, .is_windows = rank == 2};
  for (std::int64_t row = 0; row < rows; ++row) {
    auto& target = result.rows.emplace_back();
    target.reserve(static_cast<std::size_t>(columns));
    for (std::int64_t column = 0; column < columns; ++column) {
      const std::int64_t id = values[static_cast<std::size_t>(row * columns + column)];
      if (id < 0 || id >= vocab_size) {
        throw InputError(
            fmt::format("{}: the id {} at row {}, column {} is outside the model's vocabulary of "
                        "{}; were these "
                        "ids made with another tokenizer?",
                        path.string(), id, row, column, vocab_size));
      }
      target.push_back(static_cast<std::int32_t>(id));
    }
  }
  return result;
}

}  // namespace quern
