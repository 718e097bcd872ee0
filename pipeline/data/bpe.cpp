#include "pipeline/data/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "kernels/core/error.h"
#include "pipeline/data/utf8.h"

namespace quern {
namespace {

constexpr std::size_t kLongestRememberedWord = 64;

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) |
         static_cast<std::uint32_t>(right);
}

std::uint64_t joint_key(char32_t left, char32_t right) {
  return (static_cast<std::uint64_t>(left) << 32) | right;
}

}  // namespace

bool Vocabulary::add(std::string token, std::int32_t id) {
  const auto place = static_cast<std::size_t>(id);
  if (place < tokens_.size() && tokens_[place].data() != nullptr) return false;
  const auto [entry, added] = ids_.emplace(std::move(token), id);
  if (!added) return false;
  if (place >= tokens_.size()) tokens_.resize(place + 1);
  tokens_[place] = entry->first;
  return true;
}

std::optional<std::int32_t> Vocabulary::find(std::string_view token) const {
  const auto found = ids_.find(token);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

std::string_view Vocabulary::token(std::int32_t id) const {
  const auto place = static_cast<std::size_t>(id);
  return id >= 0 && place < tokens_.size() ? tokens_[place] : std::string_view();
}

Bpe::Bpe(BpeModel model) : model_(std::move(model)) {
  const auto id_of = [&](const std::string& token, std::size_t rank) {
    if (const auto id = model_.vocabulary.find(token)) return *id;
    throw InputError(fmt::format("merge {} needs the token \"{}\", which is not in the vocabulary",
                                 rank, token));
  };
  merges_.reserve(model_.merges.size());
  for (std::size_t rank = 0; rank < model_.merges.size(); ++rank) {
    const auto& [left, right] = model_.merges[rank];
    const std::int32_t left_id = id_of(left, rank);
    const std::int32_t right_id = id_of(right, rank);
    if (right.size() < model_.subword_prefix.size()) {
      throw InputError(fmt::format("merge {}: \"{}\" lacks the subword prefix", rank, right));
    }
    const std::int32_t merged = id_of(left + right.substr(model_.subword_prefix.size()), rank);
    // The library lets the last of equal merges win, and so must we.
    merges_[pair_key(left_id, right_id)] = {static_cast<std::uint32_t>(rank), merged};
  }
  note_joints();
  model_.merges.clear();
  for (unsigned byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] = model_.vocabulary.find(fmt::format("<0x{:02X}>", byte));
  }
}

void Bpe::note_joints() {
  if (!model_.subword_prefix.empty() || !model_.word_suffix.empty()) return;
  cuts_ = true;
  for (const auto& [left, right] : model_.merges) {
    if (left.empty() || right.empty()) continue;
    std::size_t last = last_character_begin(left);
    std::size_t first = 0;
    joints_.insert(joint_key(next_character(left, last), next_character(right, first)));
  }
}

void Bpe::encode(std::string_view word, Scratch& scratch, std::vector<std::int32_t>& ids) const {
  if (model_.ignore_merges) {
    if (const auto id = model_.vocabulary.find(word)) {
      ids.push_back(*id);
      return;
    }
  }
  if (!cuts_ || word.size() <= kLongestRememberedWord) return encode_part(word, scratch, ids);
  std::size_t begin = 0;
  char32_t previous = 0;
  bool previous_known = false;
  for (std::size_t at = 0; at < word.size();) {
    const std::size_t here = at;
    const char32_t character = next_character(word, at);
    const bool known = model_.vocabulary.find(word.substr(here, at - here)).has_value();
    if (known && previous_known && !joints_.contains(joint_key(previous, character))) {
      encode_part(word.substr(begin, here - begin), scratch, ids);
      begin = here;
    }
    previous = character;
    previous_known = known;
  }
  encode_part(word.substr(begin), scratch, ids);
}

void Bpe::encode_part(std::string_view part, Scratch& scratch,
                      std::vector<std::int32_t>& ids) const {
  const bool remember = part.size() <= kLongestRememberedWord;
  std::string& key = scratch.key_;
  if (remember) {
    key = part;
    if (const auto seen = scratch.seen_.find(key); seen != scratch.seen_.end()) {
      const auto begin = scratch.pool_.begin() + static_cast<std::ptrdiff_t>(seen->second.first);
      ids.insert(ids.end(), begin, begin + static_cast<std::ptrdiff_t>(seen->second.second));
      return;
    }
  }
  split_characters(part, scratch);
  merge_all(scratch);
  const std::size_t first = ids.size();
  for (const Scratch::Symbol& symbol : scratch.symbols_) {
    if (symbol.alive) ids.push_back(symbol.id);
  }
  if (remember) {
    scratch.seen_.emplace(key, std::pair(scratch.pool_.size(), ids.size() - first));
    scratch.pool_.insert(scratch.pool_.end(), ids.begin() + static_cast<std::ptrdiff_t>(first),
                         ids.end());
  }
}

void Bpe::split_characters(std::string_view word, Scratch& scratch) const {
  if (word.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    throw InputError(
        "a text without any word boundary is longer than 2 GiB; cut it into documents");
  }
  auto& symbols = scratch.symbols_;
  symbols.clear();
  const auto append = [&](std::int32_t id) { symbols.push_back({id, 0, 0, true}); };
  std::int32_t pending = -1;  // an unknown token not yet written, to be fused with the next
  for (std::size_t at = 0; at < word.size();) {
    const std::string_view bare = word.substr(at, utf8_bytes(word[at]));
    std::string& character = scratch.character_;
    character = at == 0 ? "" : model_.subword_prefix;
    character += bare;
    at += bare.size();
    if (at == word.size()) character += model_.word_suffix;
    if (const auto id = model_.vocabulary.find(character)) {
      if (pending >= 0) append(pending);
      pending = -1;
      append(*id);
    } else if (model_.byte_fallback && add_bytes(character, scratch)) {
      continue;  // the library leaves an earlier unknown character pending here
    } else if (!model_.unknown_token.empty()) {
      if (pending >= 0 && !model_.fuse_unknown) append(pending);
      if (pending < 0) pending = unknown_id(character);
    }
  }
  if (pending >= 0) append(pending);
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    symbols[i].previous = static_cast<std::int32_t>(i) - 1;
    symbols[i].next = i + 1 < symbols.size() ? static_cast<std::int32_t>(i + 1) : -1;
  }
}

bool Bpe::add_bytes(std::string_view character, Scratch& scratch) const {
  const auto id_of = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
  if (!std::ranges::all_of(character, [&](char c) { return id_of(c).has_value(); })) return false;
  for (const char c : character) scratch.symbols_.push_back({*id_of(c), 0, 0, true});
  return true;
}

std::int32_t Bpe::unknown_id(std::string_view character) const {
  if (const auto id = model_.vocabulary.find(model_.unknown_token)) return *id;
  throw InputError(fmt::format(
      "the text has the character \"{}\", which has no token, and the tokenizer's unknown token "
      "\"{}\" is not in its vocabulary",
      character, model_.unknown_token));
}

const Bpe::Merge* Bpe::find_merge(std::int32_t left, std::int32_t right) const {
  const auto found = merges_.find(pair_key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void Bpe::push_candidate(std::int32_t left, Scratch& scratch) const {
  const auto& symbols = scratch.symbols_;
  const auto& symbol = symbols[static_cast<std::size_t>(left)];
  if (symbol.next < 0) return;
  const Merge* merge = find_merge(symbol.id, symbols[static_cast<std::size_t>(symbol.next)].id);
  if (merge != nullptr) scratch.heap_.push_back({merge->rank, left, merge->merged});
}

void Bpe::merge_all(Scratch& scratch) const {
  auto& symbols = scratch.symbols_;
  auto& heap = scratch.heap_;
  const auto later = [](const Scratch::Candidate& a, const Scratch::Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  const auto push = [&](std::int32_t left) {
    const std::size_t size = heap.size();
    push_candidate(left, scratch);
    if (heap.size() > size) std::ranges::push_heap(heap, later);
  };
  heap.clear();
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    push_candidate(static_cast<std::int32_t>(i), scratch);
  }
  std::ranges::make_heap(heap, later);
  while (!heap.empty()) {
    std::ranges::pop_heap(heap, later);
    const Scratch::Candidate best = heap.back();
    heap.pop_back();
    Scratch::Symbol& left = symbols[static_cast<std::size_t>(best.position)];
    if (!left.alive || left.next < 0) continue;
    Scratch::Symbol& right = symbols[static_cast<std::size_t>(left.next)];
    const Merge* merge = find_merge(left.id, right.id);
    if (merge == nullptr || merge->merged != best.merged) continue;
    left.id = best.merged;
    left.next = right.next;
    right.alive = false;
    if (right.next >= 0) symbols[static_cast<std::size_t>(right.next)].previous = best.position;
    if (left.previous >= 0) push(left.previous);
    push(best.position);
  }
}

}  // namespace quern
