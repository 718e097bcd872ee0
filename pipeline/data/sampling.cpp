#include "pipeline/data/sampling.h"

#include <algorithm>

namespace quern {
namespace {

constexpr std::size_t kPoolBytes = std::size_t{256} << 20;

std::uint64_t mix(std::uint64_t z) noexcept {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

}  // namespace

std::uint64_t SplitMix64::next() noexcept {
  state_ += 0x9e3779b97f4a7c15ULL;
  return mix(state_);
}

std::uint64_t SplitMix64::below(std::uint64_t bound) noexcept {
  const std::uint64_t biased = (0 - bound) % bound;  // 2^64 mod bound values would be too many
  std::uint64_t value = next();
  while (value < biased) value = next();
  return value % bound;
}

std::uint64_t random_key(std::uint64_t seed, std::uint64_t index) noexcept {
  return SplitMix64(mix(seed + 1) ^ index).next();
}

std::vector<std::int64_t> random_starts(std::int64_t size, std::int64_t length, std::int64_t count,
                                        SplitMix64& random) {
  const auto slack = static_cast<std::uint64_t>(size - count * length);
  std::vector<std::int64_t> starts(static_cast<std::size_t>(count));
  for (auto& start : starts) start = static_cast<std::int64_t>(random.below(slack + 1));
  std::ranges::sort(starts);
  for (std::int64_t i = 0; i < count; ++i) starts[static_cast<std::size_t>(i)] += i * length;
  return starts;
}

ShuffledDocuments::ShuffledDocuments(const TextConfig& config, std::uint64_t seed,
                                     std::size_t least_bytes, std::size_t pool_documents)
    : config_(config), seed_(seed), least_bytes_(least_bytes), pool_documents_(pool_documents) {}

bool ShuffledDocuments::next(std::string& text) {
  if (pool_.empty() && !exhausted_) fill();
  if (pool_.empty()) return false;
  last_given_ = pool_.back().key;
  pool_bytes_ -= pool_.back().document.bytes.size();
  text = document_text(std::move(pool_.back().document), config_.field);
  pool_.pop_back();
  return true;
}

void ShuffledDocuments::fill() {
  first_left_out_.reset();
  std::uint64_t index = 0;
  RawDocument document;
  if (config_.max_characters > 0) {
    Documents documents(config_);
    while (documents.next(document.bytes)) consider(index++, document);
  } else {
    RawDocuments documents(config_.source, 0);
    while (documents.next(document)) consider(index++, document);
  }
  exhausted_ = !first_left_out_;
  std::ranges::sort(pool_, std::ranges::greater(), &Candidate::key);
}

void ShuffledDocuments::consider(std::uint64_t index, RawDocument& document) {
  const Key key(random_key(seed_, index), index);
  if (document.bytes.size() < least_bytes_) return;
  if (last_given_ && key <= *last_given_) return;
  if (first_left_out_ && key >= *first_left_out_) return;
  pool_bytes_ += document.bytes.size();
  pool_.push_back({key, std::move(document)});
  document = {};
  std::ranges::push_heap(pool_, std::ranges::less(), &Candidate::key);
  while (pool_.size() > pool_documents_ || (pool_bytes_ > kPoolBytes && pool_.size() > 1)) {
    evict_last();
  }
}

void ShuffledDocuments::evict_last() {
  std::ranges::pop_heap(pool_, std::ranges::less(), &Candidate::key);
  first_left_out_ = pool_.back().key;
  pool_bytes_ -= pool_.back().document.bytes.size();
  pool_.pop_back();
}

}  // namespace quern
