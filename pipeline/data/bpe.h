#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace quern {

/// Tokens and their ids, both ways.
class Vocabulary {
 public:
  Vocabulary() = default;
  Vocabulary(Vocabulary&&) noexcept = default;
  Vocabulary& operator=(Vocabulary&&) noexcept = default;
  Vocabulary(const Vocabulary&) = delete;             // tokens_ refers into ids_
  Vocabulary& operator=(const Vocabulary&) = delete;  // likewise
  ~Vocabulary() = default;

  /// False if the id or the token is taken; nothing is added then.
  bool add(std::string token, std::int32_t id);
  std::optional<std::int32_t> find(std::string_view token) const;
  /// Empty for an id without token.
  std::string_view token(std::int32_t id) const;
  std::int64_t size() const noexcept { return static_cast<std::int64_t>(ids_.size()); }
  /// One more than the largest id.
  std::int64_t id_bound() const noexcept { return static_cast<std::int64_t>(tokens_.size()); }

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const noexcept {
      return std::hash<std::string_view>()(text);
    }
  };
  std::unordered_map<std::string, std::int32_t, Hash, std::equal_to<>> ids_;
  std::vector<std::string_view> tokens_;  ///< refers to the keys of ids_
};

/// What a "BPE" model of tokenizer.json says.
struct BpeModel {
  Vocabulary vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;  ///< most frequent first
  std::string unknown_token;                                ///< empty: none
  std::string subword_prefix;  ///< of every character of a word but the first
  std::string word_suffix;     ///< of the last character of a word
  bool fuse_unknown = false;
  bool byte_fallback = false;
  bool ignore_merges = false;  ///< a word that is a token is taken whole
};

/// Byte-pair encoding. Takes O(n log n) for a word of n characters. Immutable.
/// As in the reference library, a character without a token is dropped if there is neither an
/// unknown token nor a byte fallback.
class Bpe {
 public:
  /// Throws InputError without a place if a merge names a token that is not in the vocabulary.
  explicit Bpe(BpeModel model);

  /// The scratch memory of one thread: remembers words it has seen.
  class Scratch {
    friend class Bpe;
    struct Symbol {
      std::int32_t id;
      std::int32_t previous;
      std::int32_t next;
      bool alive;
    };
    struct Candidate {
      std::uint32_t rank;
      std::int32_t position;
      std::int32_t merged;
    };
    std::vector<Symbol> symbols_;
    std::vector<Candidate> heap_;
    std::vector<std::int32_t> pool_;
    std::unordered_map<std::string, std::pair<std::size_t, std::size_t>> seen_;
    std::string character_;
    std::string key_;
  };

  /// Appends the ids of one word of valid UTF-8. Throws InputError if the unknown token is needed
  /// and not in the vocabulary.
  void encode(std::string_view word, Scratch& scratch, std::vector<std::int32_t>& ids) const;

  const Vocabulary& vocabulary() const noexcept { return model_.vocabulary; }

 private:
  struct Merge {
    std::uint32_t rank;
    std::int32_t merged;
  };
  void note_joints();
  void encode_part(std::string_view part, Scratch& scratch, std::vector<std::int32_t>& ids) const;
  void split_characters(std::string_view word, Scratch& scratch) const;
  bool add_bytes(std::string_view character, Scratch& scratch) const;
  std::int32_t unknown_id(std::string_view character) const;
  void push_candidate(std::int32_t left, Scratch& scratch) const;
  void merge_all(Scratch& scratch) const;
  const Merge* find_merge(std::int32_t left, std::int32_t right) const;

  BpeModel model_;
  std::unordered_map<std::uint64_t, Merge> merges_;
  std::array<std::optional<std::int32_t>, 256> byte_ids_;
  /// Pairs of characters that some merge joins. Between two others a long word can be cut, which
  /// makes words of a text that has no pre-tokenizer.
  std::unordered_set<std::uint64_t> joints_;
  bool cuts_ = false;
};

}  // namespace quern
