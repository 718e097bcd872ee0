#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/data/text.h"

namespace quern {

/// SplitMix64: the same numbers on every platform.
class SplitMix64 {
 public:
  explicit SplitMix64(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() noexcept;
  /// Uniform in [0, bound), bound > 0.
  std::uint64_t below(std::uint64_t bound) noexcept;

 private:
  std::uint64_t state_;
};

/// The place of document `index` in the random order of a seed: smaller comes first.
std::uint64_t random_key(std::uint64_t seed, std::uint64_t index) noexcept;

/// `count` starts of windows of `length` in a stream of `size` tokens: random, ascending, and no
/// two windows overlap. Expects count * length <= size.
std::vector<std::int64_t> random_starts(std::int64_t size, std::int64_t length, std::int64_t count,
                                        SplitMix64& random);

/// The documents of a text in the order of random_key(seed, place in the text).
///
/// One pass over the files keeps those with the smallest keys, up to a number and a size; another
/// pass is made only if they are used up. So memory is bounded, a line is parsed only when it is
/// its turn, and the order depends on nothing but the text and the seed. A document (or line)
/// with fewer than `least_bytes` bytes is passed over.
class ShuffledDocuments {
 public:
  ShuffledDocuments(const TextConfig& config, std::uint64_t seed, std::size_t least_bytes,
                    std::size_t pool_documents);

  /// False at the end. Throws as Documents::next.
  bool next(std::string& text);

 private:
  using Key = std::pair<std::uint64_t, std::uint64_t>;  ///< random key, place in the text
  struct Candidate {
    Key key;
    RawDocument document;
  };
  void fill();
  void consider(std::uint64_t index, RawDocument& document);
  void evict_last();

  TextConfig config_;
  std::uint64_t seed_;
  std::size_t least_bytes_;
  std::size_t pool_documents_;
  std::vector<Candidate> pool_;  ///< a heap by key while it is filled, then descending
  std::size_t pool_bytes_ = 0;
  std::optional<Key> last_given_;
  std::optional<Key> first_left_out_;
  bool exhausted_ = false;
};

}  // namespace quern
