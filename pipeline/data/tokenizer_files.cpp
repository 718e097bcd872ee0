#include "pipeline/data/tokenizer_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <map>
#include <set>

#include "kernels/core/error.h"
#include "pipeline/data/json_node.h"
#include "pipeline/data/tokenizer_steps.h"
#include "workers/files/json_file.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kMostIds = 1 << 22;

constexpr auto kNamedTokens = std::to_array<std::string_view>(
    {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"});

std::int32_t read_id(const JsonNode& node) {
  const std::int64_t id = node.integer();
  if (id < 0 || id >= kMostIds) node.refuse(fmt::format("{} is not a token id", id));
  return static_cast<std::int32_t>(id);
}

Vocabulary read_vocabulary(const JsonNode& node) {
  node.require_object();
  Vocabulary vocabulary;
  for (const auto& [token, value] : node.value().items()) {
    const bool is_id = value.is_number_unsigned() && value.get<std::uint64_t>() < kMostIds;
    if (!is_id) node.refuse(fmt::format("\"{}\" has the id {}", token, value.dump()));
    const auto id = value.get<std::int32_t>();
    if (!vocabulary.add(token, id)) {
      node.refuse(
          fmt::format("\"{}\" and \"{}\" have the same id {}", vocabulary.token(id), token, id));
    }
  }
  return vocabulary;
}

/// "a b" -> (a, b); empty if the text is not two parts.
std::optional<std::pair<std::string, std::string>> parse_merge(std::string_view text) {
  const std::size_t space = text.find(' ');
  if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
    return std::nullopt;
  }
  return std::pair(std::string(text.substr(0, space)), std::string(text.substr(space + 1)));
}

void read_merge(const JsonNode& node, BpeModel& model) {
  if (node.value().is_array()) {
    if (node.size() != 2) node.refuse("expected a pair of tokens");
    model.merges.emplace_back(node.at(std::size_t{0}).string(), node.at(std::size_t{1}).string());
    return;
  }
  if (node.string().starts_with("#version")) return;
  auto merge = parse_merge(node.string());
  if (!merge)
    node.refuse(fmt::format("expected two tokens and one space, found \"{}\"", node.string()));
  model.merges.push_back(std::move(*merge));
}

BpeModel read_model(const JsonNode& node) {
  if (const auto type = node.find("type"); type && type->string() != "BPE") {
    type->refuse(fmt::format("the model \"{}\" is not supported; expected BPE", type->string()));
  }
  node.allow_only({"type", "dropout", "unk_token", "continuing_subword_prefix",
                   "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges", "vocab",
                   "merges"});
  if (const auto dropout = node.find("dropout")) {
    const nlohmann::json& value = dropout->value();
    if (!value.is_number() || value.get<double>() != 0.0) {
      dropout->refuse("dropout makes tokens random; expected null or 0");
    }
  }
  const auto text = [&](std::string_view key) {
    const auto member = node.find(key);
    return member ? member->string() : std::string();
  };
  BpeModel model;
  model.vocabulary = read_vocabulary(node.at("vocab"));
  model.unknown_token = text("unk_token");
  model.subword_prefix = text("continuing_subword_prefix");
  model.word_suffix = text("end_of_word_suffix");
  model.fuse_unknown = node.boolean("fuse_unk", false);
  model.byte_fallback = node.boolean("byte_fallback", false);
  model.ignore_merges = node.boolean("ignore_merges", false);
  const JsonNode merges = node.at("merges");
  merges.require_array();
  model.merges.reserve(merges.size());
  for (std::size_t i = 0; i < merges.size(); ++i) read_merge(merges.at(i), model);
  return model;
}

/// Collects added tokens and checks that each id is the one the reference library would give.
class AddedTokenList {
 public:
  explicit AddedTokenList(TokenizerParts& parts)
      : parts_(parts), next_id_(parts.model.vocabulary.size()) {}

  bool contains(std::string_view content) const { return contents_.contains(content); }

  void add(AddedToken token, const JsonNode& place) {
    if (token.content.empty()) return;
    if (!contents_.insert(token.content).second) {
      place.refuse(fmt::format("the token \"{}\" is added twice", token.content));
    }
    const auto known = parts_.model.vocabulary.find(token.content);
    const std::int64_t expected = known ? *known : next_id_;
    if (token.id != expected) {
      place.refuse(fmt::format("the added token \"{}\" has id {}, but {} gives it {}",
                               token.content, token.id,
                               known ? "the vocabulary" : "its place in the list", expected));
    }
    next_id_ = std::max<std::int64_t>(next_id_, token.id + 1);
    parts_.added.push_back(std::move(token));
  }

 private:
  TokenizerParts& parts_;
  std::int64_t next_id_;
  std::set<std::string, std::less<>> contents_;
};

AddedToken read_added_token(const JsonNode& node, std::int32_t id) {
  node.allow_only(
      {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special", "__type"});
  const bool special = node.boolean("special", false);
  return {.content = node.at("content").string(),
          .id = id,
          .special = special,
          .normalized = node.boolean("normalized", !special),
          .strip_left = node.boolean("lstrip", false),
          .strip_right = node.boolean("rstrip", false),
          .single_word = node.boolean("single_word", false)};
}

void read_tokenizer_json(const JsonNode& root, TokenizerParts& parts) {
  // Truncation and padding shape training batches; here whole texts are encoded.
  root.allow_only({"version", "truncation", "padding", "added_tokens", "normalizer",
                   "pre_tokenizer", "post_processor", "decoder", "model"});
  parts.model = read_model(root.at("model"));
  if (const auto node = root.find("normalizer")) parts.normalizer = read_normalizer(*node);
  if (const auto node = root.find("pre_tokenizer")) {
    parts.pre_tokenizer = read_pre_tokenizer(*node, !parts.normalizer.empty());
  }
  if (const auto node = root.find("post_processor")) {
    parts.post_processor = read_post_processor(*node);
  }
}

void read_json_added_tokens(const JsonNode& root, AddedTokenList& list) {
  const auto tokens = root.find("added_tokens");
  if (!tokens) return;
  tokens->require_array();
  for (std::size_t i = 0; i < tokens->size(); ++i) {
    const JsonNode node = tokens->at(i);
    list.add(read_added_token(node, read_id(node.at("id"))), node);
  }
}

void read_merges_file(const fs::path& path, BpeModel& model) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw InputError(fmt::format("{}: cannot be read", path.string()));
  std::string line;
  for (std::size_t number = 1; std::getline(file, line); ++number) {
    if (line.ends_with('\r')) line.pop_back();
    if (line.starts_with("#version") || line.empty()) continue;
    auto merge = parse_merge(line);
    if (!merge) {
      throw InputError(fmt::format("{}:{}: expected two tokens and one space, found \"{}\"",
                                   path.string(), number, line));
    }
    model.merges.push_back(std::move(*merge));
  }
}

/// vocab.json does not say which tokens are special. Those written <like this> that no merge can
/// make are whole tokens or nothing.
void add_unreachable_tokens(const JsonNode& vocabulary, TokenizerParts& parts,
                            AddedTokenList& list) {
  std::set<std::string> made;
  for (const auto& [left, right] : parts.model.merges) made.insert(left + right);
  for (const auto& [token, id] : vocabulary.value().items()) {
    const bool marked = token.size() > 2 && token.starts_with('<') && token.ends_with('>');
    if (!marked || made.contains(token) || list.contains(token)) continue;
    list.add({.content = token, .id = id.get<std::int32_t>(), .special = true}, vocabulary);
  }
}

/// tokenizer_config.json or special_tokens_map.json; an empty object if absent.
nlohmann::json read_optional(const fs::path& path) {
  return fs::exists(path) ? read_json_file(path) : nlohmann::json::object();
}

/// A named token is a string or an object with "content".
std::string token_content(const JsonNode& node) {
  return node.value().is_object() ? node.at("content").string() : node.string();
}

void add_named_token(const JsonNode& node, TokenizerParts& parts, AddedTokenList& list) {
  const std::string content = token_content(node);
  const auto id = parts.model.vocabulary.find(content);
  if (!id || list.contains(content)) return;
  AddedToken token{.content = content, .id = *id, .special = true};
  if (node.value().is_object()) token = read_added_token(node, *id);
  token.special = true;
  list.add(std::move(token), node);
}

void read_added_tokens_decoder(const JsonNode& node, AddedTokenList& list) {
  node.require_object();
  std::map<std::int64_t, std::string> keys;
  for (const auto& [key, value] : node.value().items()) {
    std::int64_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0 || id >= kMostIds) {
      node.refuse(fmt::format("\"{}\" is not a token id", key));
    }
    keys.emplace(id, key);
  }
  for (const auto& [id, key] : keys) {
    const JsonNode token = node.at(key);
    if (list.contains(token.at("content").string())) continue;
    list.add(read_added_token(token, static_cast<std::int32_t>(id)), token);
  }
}

std::optional<std::int32_t> named_id(const JsonNode& config, std::string_view name,
                                     const TokenizerParts& parts) {
  const auto node = config.find(name);
  if (!node) return std::nullopt;
  const std::string content = token_content(*node);
  for (const AddedToken& token : parts.added) {
    if (token.content == content) return token.id;
  }
  return parts.model.vocabulary.find(content);
}

/// add_bos_token overrules the post-processor, as it does for the models that set it.
void apply_bos_and_eos(const JsonNode& config, TokenizerParts& parts) {
  auto& [before, behind] = parts.post_processor;
  if (!parts.bos && before.size() == 1) parts.bos = before.front();
  if (const auto flag = config.find("add_bos_token")) {
    if (flag->boolean() && !parts.bos) flag->refuse("is true, but there is no \"bos_token\"");
    const bool has = parts.bos && !before.empty() && before.front() == *parts.bos;
    if (flag->boolean() && !has) before.insert(before.begin(), *parts.bos);
    if (!flag->boolean() && has) before.erase(before.begin());
  }
  if (const auto flag = config.find("add_eos_token"); flag && flag->boolean()) {
    if (!parts.eos) flag->refuse("is true, but there is no \"eos_token\"");
    if (behind.empty() || behind.back() != *parts.eos) behind.push_back(*parts.eos);
  }
}

void read_configs(const fs::path& folder, TokenizerParts& parts, AddedTokenList& list) {
  const fs::path map_path = folder / "special_tokens_map.json";
  const fs::path config_path = folder / "tokenizer_config.json";
  const nlohmann::json map_json = read_optional(map_path);
  const nlohmann::json config_json = read_optional(config_path);
  const JsonNode map(map_json, map_path.string());
  const JsonNode config(config_json, config_path.string());
  if (const auto node = config.find("added_tokens_decoder")) read_added_tokens_decoder(*node, list);
  for (const JsonNode& file : {config, map}) {
    for (const std::string_view name : kNamedTokens) {
      if (const auto node = file.find(name)) add_named_token(*node, parts, list);
    }
    if (const auto more = file.find("additional_special_tokens")) {
      more->require_array();
      for (std::size_t i = 0; i < more->size(); ++i) add_named_token(more->at(i), parts, list);
    }
  }
  parts.bos = named_id(config.find("bos_token") ? config : map, "bos_token", parts);
  parts.eos = named_id(config.find("eos_token") ? config : map, "eos_token", parts);
  apply_bos_and_eos(config, parts);
}

/// transformers lets tokenizer_config.json overrule add_prefix_space of a plain ByteLevel.
void check_prefix_space(const JsonNode& root, const fs::path& folder) {
  const fs::path path = folder / "tokenizer_config.json";
  const nlohmann::json json = read_optional(path);
  const auto config = JsonNode(json, path.string()).find("add_prefix_space");
  const auto words = root.find("pre_tokenizer");
  if (!config || !words || words->at("type").string() != "ByteLevel") return;
  if (config->boolean() != words->at("add_prefix_space").boolean()) {
    config->refuse("contradicts pre_tokenizer.add_prefix_space of tokenizer.json; make them equal");
  }
}

TokenizerParts read_from_tokenizer_json(const fs::path& folder) {
  const fs::path path = folder / "tokenizer.json";
  const nlohmann::json json = read_json_file(path);
  const JsonNode root(json, path.string());
  TokenizerParts parts;
  read_tokenizer_json(root, parts);
  check_prefix_space(root, folder);
  AddedTokenList list(parts);
  read_json_added_tokens(root, list);
  read_configs(folder, parts, list);
  return parts;
}

TokenizerParts read_from_vocabulary(const fs::path& folder) {
  if (fs::exists(folder / "added_tokens.json")) {
    throw InputError(fmt::format(
        "{}: added_tokens.json beside vocab.json is not supported; save the tokenizer as "
        "tokenizer.json",
        folder.string()));
  }
  const fs::path path = folder / "vocab.json";
  const nlohmann::json json = read_json_file(path);
  const JsonNode vocabulary(json, path.string());
  const fs::path config_path = folder / "tokenizer_config.json";
  const nlohmann::json config = read_optional(config_path);
  TokenizerParts parts;
  parts.model.vocabulary = read_vocabulary(vocabulary);
  read_merges_file(folder / "merges.txt", parts.model);
  parts.pre_tokenizer = byte_level_pre_tokenizer(
      JsonNode(config, config_path.string()).boolean("add_prefix_space", false));
  AddedTokenList list(parts);
  read_configs(folder, parts, list);
  add_unreachable_tokens(vocabulary, parts, list);
  return parts;
}

}  // namespace

TokenizerParts read_tokenizer_files(const fs::path& folder) {
  if (fs::exists(folder / "tokenizer.json")) return read_from_tokenizer_json(folder);
  if (fs::exists(folder / "vocab.json") && fs::exists(folder / "merges.txt")) {
    return read_from_vocabulary(folder);
  }
  throw InputError(fmt::format(
      "{}: there is neither tokenizer.json nor vocab.json with merges.txt{}", folder.string(),
      fs::exists(folder / "tokenizer.model")
          ? "; convert tokenizer.model to tokenizer.json with transformers"
          : ""));
}

}  // namespace quern
