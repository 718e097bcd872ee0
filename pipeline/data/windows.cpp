#include "pipeline/data/windows.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/core/error.h"
#include "pipeline/data/sampling.h"
#include "pipeline/data/text.h"
#include "pipeline/data/token_file.h"
#include "workers/files/hash.h"

namespace quern {
namespace {

using Ids = std::vector<std::int32_t>;

constexpr std::int64_t kMarginTokens = 1024;
constexpr std::size_t kBytesPerToken = 8;        // a first guess at how much text is enough
constexpr std::size_t kDocumentsPerSample = 64;  // of C4, 1 in 10 long lines holds 2048 tokens
constexpr std::uint64_t kStartsSalt = 0x77696e646f777321ULL;

/// What is asked for, of calibration or evaluation.
struct Request {
  std::string_view section;
  const TextConfig& text;
  std::int64_t samples = 0;  ///< 0: all
  Sampling sampling = Sampling::sequential;
  std::uint64_t seed = 0;
  const Tokenizer* tokenizer = nullptr;
  const TokenLimits& limits;
  std::optional<std::int32_t> bos;

  /// Tokens of the text in one window.
  std::int64_t payload() const { return text.sequence_length - (bos ? 1 : 0); }
};

/// The text's part of each window.
using Windows = std::vector<Ids>;

std::optional<std::int32_t> resolve_bos(const Request& request) {
  const Tokenizer* tokenizer = request.tokenizer;
  const BosPolicy policy = request.text.bos;
  if (policy == BosPolicy::never) return std::nullopt;
  if (policy == BosPolicy::automatic && !(tokenizer != nullptr && tokenizer->adds_bos())) {
    return std::nullopt;
  }
  const auto named = tokenizer != nullptr ? tokenizer->bos_id() : std::nullopt;
  const auto bos = named ? named : request.limits.bos_id;
  if (!bos) {
    throw ConfigError(fmt::format(
        "{}.bos is \"always\", but neither tokenizer nor model names a begin-of-sequence token; "
        "use \"automatic\" or \"never\"",
        request.section));
  }
  return bos;
}

void check_settings(const Request& request) {
  const std::int64_t length = request.text.sequence_length;
  const std::int64_t most = request.limits.max_positions;
  if (length < 2) {
    throw ConfigError(
        fmt::format("{}.sequence_length is {}; expected at least 2", request.section, length));
  }
  if (most > 0 && length > most) {
    throw ConfigError(
        fmt::format("{}.sequence_length is {}, but the model has {} positions; use at most {}",
                    request.section, length, most, most));
  }
  if (request.samples < 0) {
    throw ConfigError(
        fmt::format("{}.samples is {}; expected at least 1", request.section, request.samples));
  }
  if (request.text.source.empty()) {
    throw ConfigError(fmt::format("{}.source names no file", request.section));
  }
}

[[noreturn]] void refuse_too_few(const Request& request, std::int64_t windows,
                                 std::string_view reading) {
  throw InputError(
      fmt::format("{}.source ({}{}) yields {} window{} of {} tokens{}, but {} are asked for; add "
                  "text, or lower "
                  "{}.samples or {}.sequence_length",
                  request.section, request.text.source.front().string(),
                  request.text.source.size() > 1 ? " ..." : "", windows, windows == 1 ? "" : "s",
                  request.text.sequence_length, reading, std::max<std::int64_t>(request.samples, 1),
                  request.section, request.section));
}

Ids slice(const Ids& ids, std::int64_t begin, std::int64_t length) {
  return {ids.begin() + begin, ids.begin() + begin + length};
}

/// Neighbouring windows from the start.
Windows cut_sequential(const Request& request, const Ids& ids) {
  const std::int64_t payload = request.payload();
  const std::int64_t whole = static_cast<std::int64_t>(ids.size()) / payload;
  if (whole < std::max<std::int64_t>(request.samples, 1)) refuse_too_few(request, whole, "");
  const std::int64_t count = request.samples == 0 ? whole : request.samples;
  Windows windows;
  for (std::int64_t i = 0; i < count; ++i) windows.push_back(slice(ids, i * payload, payload));
  return windows;
}

/// How many windows each document gives: one each, then more from those that have room.
std::vector<std::int64_t> share_out(const Request& request, const std::vector<Ids>& documents) {
  const std::int64_t payload = request.payload();
  std::vector<std::int64_t> room;
  for (const Ids& ids : documents) room.push_back(static_cast<std::int64_t>(ids.size()) / payload);
  const std::int64_t whole = std::accumulate(room.begin(), room.end(), std::int64_t{0});
  if (whole < request.samples) refuse_too_few(request, whole, " without overlap");
  std::vector<std::int64_t> counts(documents.size(), 0);
  std::int64_t left = request.samples;
  while (left > 0) {
    for (std::size_t i = 0; i < counts.size() && left > 0; ++i) {
      if (counts[i] == room[i]) continue;
      ++counts[i];
      --left;
    }
  }
  return counts;
}

Windows cut_random(const Request& request, const std::vector<Ids>& documents) {
  const std::vector<std::int64_t> counts = share_out(request, documents);
  SplitMix64 random(request.seed ^ kStartsSalt);
  Windows windows;
  for (std::size_t i = 0; i < documents.size(); ++i) {
    const auto size = static_cast<std::int64_t>(documents[i].size());
    for (const std::int64_t start : random_starts(size, request.payload(), counts[i], random)) {
      windows.push_back(slice(documents[i], start, request.payload()));
    }
  }
  return windows;
}

Ids joined_ids(const Request& request) {
  const bool all = request.samples == 0;
  const auto wanted = static_cast<std::size_t>(request.samples * request.payload() + kMarginTokens);
  std::size_t enough_bytes = wanted * kBytesPerToken;
  Documents documents(request.text);
  std::string joined;
  std::string text;
  bool first = true;
  while (true) {
    bool more = true;
    while ((all || joined.size() < enough_bytes) && (more = documents.next(text))) {
      if (!std::exchange(first, false)) joined += kDocumentSeparator;
      joined += text;
    }
    Ids ids = request.tokenizer->encode(joined);
    if (!more || ids.size() >= wanted) return ids;
    enough_bytes *= 2;
  }
}

std::vector<Ids> random_documents(const Request& request) {
  const auto samples = static_cast<std::size_t>(request.samples);
  const auto least = static_cast<std::size_t>(request.payload());
  ShuffledDocuments shuffled(request.text, request.seed, least, samples * kDocumentsPerSample);
  std::vector<Ids> documents;
  std::string text;
  while (documents.size() < samples && shuffled.next(text)) {
    Ids ids = request.tokenizer->encode(text);
    if (ids.size() >= least) documents.push_back(std::move(ids));
  }
  return documents;
}

/// Rows of token files in the random order of the seed.
std::vector<Ids> shuffled_rows(const Request& request, std::vector<Ids> rows) {
  std::vector<std::pair<std::uint64_t, std::size_t>> order;
  for (std::size_t i = 0; i < rows.size(); ++i) order.emplace_back(random_key(request.seed, i), i);
  std::ranges::sort(order);
  std::vector<Ids> shuffled;
  for (const auto& [key, index] : order) shuffled.push_back(std::move(rows[index]));
  return shuffled;
}

Windows windows_of_rows(const Request& request, std::vector<Ids> rows) {
  const auto length = static_cast<std::size_t>(request.text.sequence_length);
  if (request.text.bos == BosPolicy::always) {
    throw ConfigError(fmt::format(
        "{}.bos is \"always\", but the source holds finished windows of ids; use \"automatic\"",
        request.section));
  }
  for (Ids& row : rows) {
    if (row.size() < length) {
      throw InputError(fmt::format(
          "{}.source ({}) holds windows of {} ids, but {}.sequence_length is {}", request.section,
          request.text.source.front().string(), row.size(), request.section, length));
    }
    row.resize(length);
  }
  const auto count = static_cast<std::int64_t>(rows.size());
  if (count < std::max<std::int64_t>(request.samples, 1)) refuse_too_few(request, count, "");
  if (request.sampling == Sampling::random) rows = shuffled_rows(request, std::move(rows));
  if (request.samples > 0) rows.resize(static_cast<std::size_t>(request.samples));
  return rows;
}

Windows token_file_windows(Request& request) {
  std::vector<Ids> rows;
  std::optional<bool> are_windows;
  for (const auto& path : request.text.source) {
    TokenRows file = read_token_file(path, request.limits.vocab_size);
    if (are_windows.value_or(file.is_windows) != file.is_windows) {
      throw InputError(fmt::format(
          "{}: some sources hold a stream of ids and others windows; use one kind", path.string()));
    }
    are_windows = file.is_windows;
    std::ranges::move(file.rows, std::back_inserter(rows));
  }
  if (*are_windows) {
    Windows windows = windows_of_rows(request, std::move(rows));
    request.bos.reset();
    return windows;
  }
  if (request.sampling == Sampling::random) {
    return cut_random(request, shuffled_rows(request, std::move(rows)));
  }
  Ids joined;
  for (const Ids& row : rows) joined.insert(joined.end(), row.begin(), row.end());
  return cut_sequential(request, joined);
}

Windows text_windows(const Request& request) {
  if (request.tokenizer == nullptr) {
    throw InputError(
        fmt::format("{}.source is text, but the model folder has no tokenizer", request.section));
  }
  if (request.sampling == Sampling::random) return cut_random(request, random_documents(request));
  return cut_sequential(request, joined_ids(request));
}

void check_id(std::int32_t id, const Request& request) {
  if (id >= 0 && id < request.limits.vocab_size) return;
  throw InputError(fmt::format(
      "the tokenizer gives the id {}, but the model's vocabulary has {} entries; tokenizer and "
      "model do not belong together",
      id, request.limits.vocab_size));
}

TokenWindows pack(const Request& request, const Windows& windows) {
  const auto count = static_cast<std::int64_t>(windows.size());
  const std::array<std::int64_t, 2> dims{count, request.text.sequence_length};
  TokenWindows result{.ids = HostTensor(DType::i32, Shape(dims)), .hash = {}};
  auto out = result.ids.as<std::int32_t>().begin();
  for (const Ids& window : windows) {
    if (request.bos) *out++ = *request.bos;
    out = std::ranges::copy(window, out).out;
  }
  for (const std::int32_t id : result.ids.as<std::int32_t>()) check_id(id, request);
  Xxh3Stream hash;
  hash.update(std::as_bytes(std::span(dims)));
  hash.update(result.ids.bytes);
  result.hash = hash.hex();
  return result;
}

TokenWindows make_windows(Request request) {
  check_settings(request);
  request.bos = resolve_bos(request);
  const auto& source = request.text.source;
  const auto token_files = std::ranges::count_if(source, is_token_file);
  if (token_files != 0 && token_files != std::ssize(source)) {
    throw ConfigError(
        fmt::format("{}.source mixes text and token ids; use one kind", request.section));
  }
  const Windows windows = token_files != 0 ? token_file_windows(request) : text_windows(request);
  return pack(request, windows);
}

}  // namespace

TokenWindows calibration_windows(const CalibrationConfig& config, const Tokenizer* tokenizer,
                                 const TokenLimits& limits) {
  if (config.samples < 1) {
    throw ConfigError(
        fmt::format("calibration.samples is {}; expected at least 1", config.samples));
  }
  return make_windows({.section = "calibration",
                       .text = config.text,
                       .samples = config.samples,
                       .sampling = config.sampling,
                       .seed = config.seed,
                       .tokenizer = tokenizer,
                       .limits = limits,
                       .bos = std::nullopt});
}

TokenWindows evaluation_windows(const EvaluateConfig& config, const Tokenizer* tokenizer,
                                const TokenLimits& limits) {
  return make_windows({.section = "evaluate",
                       .text = config.text,
                       .samples = config.samples,
                       .tokenizer = tokenizer,
                       .limits = limits,
                       .bos = std::nullopt});
}

}  // namespace quern
