#include "pipeline/data/tokenizer_steps.h"

#include <fmt/format.h>

#include <array>
#include <optional>
#include <utility>

#include "kernels/core/error.h"

namespace quern {
namespace {

constexpr std::string_view kGpt2Words =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// Words and the runs of other characters that are not white space.
constexpr std::string_view kWordsOrSymbols =
    R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\s]+)";

constexpr auto kBehaviors = std::to_array<std::pair<std::string_view, SplitBehavior>>({
    {"Removed", SplitBehavior::removed},
    {"Isolated", SplitBehavior::isolated},
    {"MergedWithPrevious", SplitBehavior::merged_with_previous},
    {"MergedWithNext", SplitBehavior::merged_with_next},
    {"Contiguous", SplitBehavior::contiguous},
});

Pattern read_pattern(const JsonNode& node) {
  node.allow_only({"String", "Regex"});
  if (node.size() != 1) node.refuse("expected either \"String\" or \"Regex\"");
  const auto literal = node.find("String");
  const JsonNode text = literal ? *literal : node.at("Regex");
  try {
    return literal ? Pattern::literal(text.string()) : Pattern::regex(text.string());
  } catch (const InputError& error) {
    text.refuse(error.what());
  }
}

SplitBehavior read_behavior(const JsonNode& node) {
  for (const auto& [name, behavior] : kBehaviors) {
    if (node.string() == name) return behavior;
  }
  node.refuse(fmt::format("the behavior \"{}\" is not known", node.string()));
}

std::optional<UnicodeForm> unicode_form(std::string_view type) {
  if (type == "NFC") return UnicodeForm{.compose = true, .compatibility = false};
  if (type == "NFD") return UnicodeForm{.compose = false, .compatibility = false};
  if (type == "NFKC") return UnicodeForm{.compose = true, .compatibility = true};
  if (type == "NFKD") return UnicodeForm{.compose = false, .compatibility = true};
  return std::nullopt;
}

NormalizerStep read_plain_normalizer(const JsonNode& node, const std::string& type) {
  node.allow_only({"type"});
  if (const auto form = unicode_form(type)) return *form;
  if (type == "Lowercase") return LowerCase{};
  return BytesToCharacters{};
}

void read_normalizer_steps(const JsonNode& node, std::vector<NormalizerStep>& steps) {
  const std::string& type = node.at("type").string();
  if (type == "Sequence") {
    node.allow_only({"type", "normalizers"});
    const JsonNode parts = node.at("normalizers");
    parts.require_array();
    for (std::size_t i = 0; i < parts.size(); ++i) read_normalizer_steps(parts.at(i), steps);
  } else if (type == "Prepend") {
    node.allow_only({"type", "prepend"});
    steps.emplace_back(std::in_place_type<PrependText>, node.at("prepend").string());
  } else if (type == "Replace") {
    node.allow_only({"type", "pattern", "content"});
    steps.emplace_back(std::in_place_type<ReplaceMatches>, read_pattern(node.at("pattern")),
                       node.at("content").string());
  } else if (type == "Strip") {
    node.allow_only({"type", "strip_left", "strip_right"});
    steps.emplace_back(std::in_place_type<StripWhiteSpace>, node.at("strip_left").boolean(),
                       node.at("strip_right").boolean());
  } else if (unicode_form(type) || type == "Lowercase" || type == "ByteLevel") {
    steps.push_back(read_plain_normalizer(node, type));
  } else {
    node.refuse(fmt::format("the normalizer \"{}\" is not supported", type));
  }
}

void append_byte_level(bool add_prefix_space, bool use_regex,
                       std::vector<PreTokenizerStep>& steps) {
  if (add_prefix_space) steps.emplace_back(std::in_place_type<WordPrefix>, " ", false);
  if (use_regex) {
    steps.emplace_back(std::in_place_type<SplitWords>, Pattern::regex(kGpt2Words),
                       SplitBehavior::isolated, false);
  }
  steps.emplace_back(std::in_place_type<WordBytes>);
}

/// Which words a Metaspace puts its mark before. Old files say add_prefix_space, new ones
/// prepend_scheme.
std::string read_prepend_scheme(const JsonNode& node) {
  const auto scheme = node.find("prepend_scheme");
  const bool old_style = node.boolean("add_prefix_space", true);
  if (!scheme) return old_style ? "always" : "never";
  const std::string& name = scheme->string();
  if (name != "always" && name != "first" && name != "never") {
    scheme->refuse(fmt::format("the scheme \"{}\" is not known", name));
  }
  if (!old_style && name != "never") scheme->refuse("contradicts add_prefix_space");
  return name;
}

class PreTokenizerReader {
 public:
  explicit PreTokenizerReader(bool normalizes) : normalizes_(normalizes) {}

  void read(const JsonNode& node) {
    const std::string& type = node.at("type").string();
    if (type == "Sequence") return sequence(node);
    if (type == "ByteLevel") return byte_level(node);
    if (type == "Split") return split(node);
    if (type == "Metaspace") return metaspace(node);
    if (type == "Digits") return digits(node);
    if (type == "Punctuation") return punctuation(node);
    if (type == "Whitespace" || type == "WhitespaceSplit") return white_space(node, type);
    node.refuse(fmt::format("the pre-tokenizer \"{}\" is not supported", type));
  }

  std::vector<PreTokenizerStep> take() { return std::move(steps_); }

 private:
  void sequence(const JsonNode& node) {
    node.allow_only({"type", "pretokenizers"});
    const JsonNode parts = node.at("pretokenizers");
    parts.require_array();
    for (std::size_t i = 0; i < parts.size(); ++i) read(parts.at(i));
  }

  void byte_level(const JsonNode& node) {
    node.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    append_byte_level(node.at("add_prefix_space").boolean(), node.boolean("use_regex", true),
                      steps_);
  }

  void split(const JsonNode& node) {
    node.allow_only({"type", "pattern", "behavior", "invert"});
    split_words(read_pattern(node.at("pattern")), read_behavior(node.at("behavior")),
                node.boolean("invert", false));
  }

  void metaspace(const JsonNode& node) {
    node.allow_only(
        {"type", "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep"});
    const JsonNode replacement = node.at("replacement");
    const std::string& mark = replacement.string();
    if (mark.empty() || utf8_bytes(mark.front()) != mark.size()) {
      replacement.refuse("expected one character");
    }
    const std::string scheme = read_prepend_scheme(node);
    if (scheme == "first" && (normalizes_ || !steps_.empty())) {
      node.refuse("prepend_scheme \"first\" is supported only where nothing runs before it");
    }
    steps_.emplace_back(std::in_place_type<ReplaceInWords>, Pattern::literal(" "), mark);
    if (scheme != "never") {
      steps_.emplace_back(std::in_place_type<WordPrefix>, mark, scheme == "first");
    }
    if (node.boolean("split", true)) {
      split_words(Pattern::literal(mark), SplitBehavior::merged_with_next, false);
    }
  }

  void digits(const JsonNode& node) {
    node.allow_only({"type", "individual_digits"});
    const bool individual = node.boolean("individual_digits", false);
    split_words(Pattern::regex(R"(\p{N})"),
                individual ? SplitBehavior::isolated : SplitBehavior::contiguous, false);
  }

  void punctuation(const JsonNode& node) {
    node.allow_only({"type", "behavior"});
    const auto behavior = node.find("behavior");
    split_words(Pattern::regex(R"([\p{P}$+<=>\^`|~])"),
                behavior ? read_behavior(*behavior) : SplitBehavior::isolated, false);
  }

  void white_space(const JsonNode& node, const std::string& type) {
    node.allow_only({"type"});
    const bool words = type == "Whitespace";
    split_words(Pattern::regex(words ? kWordsOrSymbols : R"(\s)"), SplitBehavior::removed, words);
  }

  void split_words(Pattern pattern, SplitBehavior behavior, bool invert) {
    steps_.emplace_back(std::in_place_type<SplitWords>, std::move(pattern), behavior, invert);
  }

  bool normalizes_;
  std::vector<PreTokenizerStep> steps_;
};

std::int32_t read_id(const JsonNode& node) {
  const std::int64_t id = node.integer();
  if (id < 0 || id > INT32_MAX) node.refuse(fmt::format("{} is not a token id", id));
  return static_cast<std::int32_t>(id);
}

PostProcessor read_template(const JsonNode& node) {
  node.allow_only({"type", "single", "pair", "special_tokens"});
  const JsonNode pieces = node.at("single");
  pieces.require_array();
  PostProcessor result;
  bool text_seen = false;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const JsonNode piece = pieces.at(i);
    piece.allow_only({"SpecialToken", "Sequence"});
    if (const auto sequence = piece.find("Sequence")) {
      if (std::exchange(text_seen, true) || sequence->at("id").string() != "A") {
        sequence->refuse("expected the sequence A, once");
      }
      continue;
    }
    const std::string& name = piece.at("SpecialToken").at("id").string();
    const JsonNode ids = node.at("special_tokens").at(name).at("ids");
    ids.require_array();
    auto& side = text_seen ? result.behind : result.before;
    for (std::size_t k = 0; k < ids.size(); ++k) side.push_back(read_id(ids.at(k)));
  }
  if (!text_seen) pieces.refuse("the sequence A is missing");
  return result;
}

}  // namespace

Normalizer read_normalizer(const JsonNode& node) {
  std::vector<NormalizerStep> steps;
  read_normalizer_steps(node, steps);
  return Normalizer(std::move(steps));
}

PreTokenizer read_pre_tokenizer(const JsonNode& node, bool normalizes) {
  PreTokenizerReader reader(normalizes);
  reader.read(node);
  return PreTokenizer(reader.take());
}

PostProcessor read_post_processor(const JsonNode& node) {
  const std::string& type = node.at("type").string();
  PostProcessor result;
  if (type == "Sequence") {
    node.allow_only({"type", "processors"});
    const JsonNode parts = node.at("processors");
    parts.require_array();
    for (std::size_t i = 0; i < parts.size(); ++i) result.append(read_post_processor(parts.at(i)));
  } else if (type == "TemplateProcessing") {
    result = read_template(node);
  } else if (type == "BertProcessing" || type == "RobertaProcessing") {
    node.allow_only({"type", "sep", "cls", "trim_offsets", "add_prefix_space"});
    result.before.push_back(read_id(node.at("cls").at(std::size_t{1})));
    result.behind.push_back(read_id(node.at("sep").at(std::size_t{1})));
  } else if (type != "ByteLevel") {  // ByteLevel moves offsets only
    node.refuse(fmt::format("the post-processor \"{}\" is not supported", type));
  }
  return result;
}

PreTokenizer byte_level_pre_tokenizer(bool add_prefix_space) {
  std::vector<PreTokenizerStep> steps;
  append_byte_level(add_prefix_space, true, steps);
  return PreTokenizer(std::move(steps));
}

}  // namespace quern
