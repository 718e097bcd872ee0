#include "pipeline/config/yaml_tree.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <sstream>
#include <unordered_set>
#include <utility>

#include "kernels/core/error.h"
#include "pipeline/config/yaml_text.h"

namespace quern {
namespace {

constexpr std::size_t kMaxDepth = 32;
constexpr std::size_t kMaxShownBytes = 60;
constexpr std::string_view kWriteInFull = "write the value out where it is needed";

/// Builds the tree from the parser's events, so that whatever is refused is refused before it is
/// expanded or recursed into.
class TreeBuilder final : public YAML::EventHandler {
 public:
  explicit TreeBuilder(const YamlSource& source) : source_(source) {}

  Place place(const YAML::Mark& mark) const {
    if (mark.is_null()) return {source_.origin, 1, source_.first_column};
    const int shift = mark.line == 0 ? source_.first_column : 1;
    return {source_.origin, mark.line + 1, mark.column + shift};
  }
  YamlNode take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (std::exchange(started_, true)) {
      fail(place(mark), "", "a second YAML document starts here", "one document",
           "remove what follows the '---' or '...'");
    }
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_anchor(mark, anchor);
    add(node(mark, YamlNode::Kind::null));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    fail(place(mark), path(), "a YAML alias ('*name') is not allowed", "a value", kWriteInFull);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    YamlNode scalar = node(mark, YamlNode::Kind::scalar);
    scalar.plain = tag == "?";
    scalar.scalar = value;
    add(std::move(scalar));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, YamlNode::Kind::sequence);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, YamlNode::Kind::mapping);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Frame {
    YamlNode node;
    bool has_key = false;  ///< the key of the next value has been read
    std::unordered_set<std::string> keys;
  };

  YamlNode node(const YAML::Mark& mark, YamlNode::Kind kind) const {
    YamlNode made;
    made.kind = kind;
    made.place = place(mark);
    return made;
  }

  bool expects_key() const {
    return !open_.empty() && open_.back().node.kind == YamlNode::Kind::mapping &&
           !open_.back().has_key;
  }

  void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
    if (anchor == YAML::NullAnchor) return;
    fail(place(mark), path(), "a YAML anchor ('&name') is not allowed", "a value", kWriteInFull);
  }

  void refuse_tag(const YAML::Mark& mark, const std::string& tag) const {
    if (tag.empty() || tag == "?" || tag == "!") return;
    fail(place(mark), path(), fmt::format("a YAML tag ({}) is not allowed", in_quotes(tag)),
         "a value", "remove the tag");
  }

  void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
            YamlNode::Kind kind) {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    if (open_.size() >= kMaxDepth) {
      fail(place(mark), "", fmt::format("nested more than {} deep", kMaxDepth), "a run file",
           "check the brackets");
    }
    if (expects_key()) {
      fail(place(mark), path(),
           "a list or mapping in place of a key, or a bracket that is not closed", "a name",
           "check the brackets");
    }
    open_.push_back({node(mark, kind), false, {}});
  }

  void close() {
    YamlNode done = std::move(open_.back().node);
    open_.pop_back();
    add(std::move(done));
  }

  void add(YamlNode value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (expects_key()) {
      add_key(value);
    } else if (Frame& frame = open_.back(); frame.node.kind == YamlNode::Kind::sequence) {
      frame.node.items.push_back(std::move(value));
    } else {
      YamlNode::Entry& entry = frame.node.entries.back();
      if (value.kind == YamlNode::Kind::null) value.place = entry.place;
      entry.value = std::move(value);
      frame.has_key = false;
    }
  }

  void add_key(const YamlNode& key) {
    Frame& frame = open_.back();
    if (key.kind != YamlNode::Kind::scalar) {
      fail(key.place, path(), "a key is empty", "a name", "write 'name: value'");
    }
    if (key.scalar == "<<") {
      fail(key.place, path(), "a YAML merge key ('<<') is not allowed", "a name", kWriteInFull);
    }
    if (!frame.keys.insert(key.scalar).second) {
      const Place first = std::find_if(frame.node.entries.begin(), frame.node.entries.end(),
                                       [&](const auto& entry) { return entry.key == key.scalar; })
                              ->place;
      fail(key.place, key_path(path(), key.scalar),
           fmt::format("set twice, first at line {}", first.line), "each key once",
           "remove one of them");
    }
    frame.node.entries.push_back({key.scalar, key.place, {}});
    frame.has_key = true;
  }

  static std::string key_path(std::string prefix, std::string_view key) {
    if (!prefix.empty()) prefix += '.';
    return prefix += printable(key);
  }

  /// The key path of the value being read.
  std::string path() const {
    std::string text;
    for (const Frame& frame : open_) {
      if (frame.node.kind == YamlNode::Kind::sequence) {
        text += fmt::format("[{}]", frame.node.items.size());
      } else if (frame.has_key) {
        text = key_path(std::move(text), frame.node.entries.back().key);
      }
    }
    return text;
  }

  YamlSource source_;
  bool started_ = false;
  YamlNode root_;
  std::vector<Frame> open_;
};

}  // namespace

void fail(const Place& place, std::string_view key, std::string_view what,
          std::string_view expected, std::string_view advice) {
  std::string text = fmt::format("{}:{}:{}: ", place.origin, place.line, place.column);
  if (!key.empty()) text += fmt::format("{}: ", key);
  text += what;
  if (!expected.empty()) text += fmt::format("; expected {}", expected);
  if (!advice.empty()) text += fmt::format("; {}", advice);
  throw ConfigError(text);
}

std::string printable(std::string_view text) {
  std::string shown(text.substr(0, kMaxShownBytes));
  if (text.size() > kMaxShownBytes) {
    while (!shown.empty() && (static_cast<unsigned char>(shown.back()) & 0xC0U) == 0x80U) {
      shown.pop_back();  // a cut character would make the message invalid UTF-8
    }
    if (!shown.empty() && static_cast<unsigned char>(shown.back()) >= 0xC0U) shown.pop_back();
    shown += "...";
  }
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; };
  std::replace_if(shown.begin(), shown.end(), is_control, '?');
  return shown;
}

std::string in_quotes(std::string_view text) {
  return fmt::format("'{}'", printable(text));
}

const YamlNode* YamlNode::find(std::string_view key) const noexcept {
  const auto entry = std::find_if(entries.begin(), entries.end(),
                                  [&](const Entry& candidate) { return candidate.key == key; });
  return entry == entries.end() ? nullptr : &entry->value;
}

YamlNode* YamlNode::find(std::string_view key) noexcept {
  return const_cast<YamlNode*>(std::as_const(*this).find(key));
}

std::string YamlNode::description() const {
  switch (kind) {
    case Kind::null:
      return "empty";
    case Kind::sequence:
      return "a list";
    case Kind::mapping:
      return "a mapping";
    case Kind::scalar:
      break;
  }
  return plain ? in_quotes(scalar) : fmt::format("the quoted text {}", in_quotes(scalar));
}

YamlNode parse_yaml(const YamlSource& source) {
  check_yaml_text(source);
  TreeBuilder builder(source);
  try {
    std::istringstream stream{std::string(source.text)};
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    fail(builder.place(error.mark), "", fmt::format("not valid YAML: {}", error.msg),
         "'key: value' lines, indented by spaces", "check the quotes, brackets and indentation");
  }
  return builder.take();
}

}  // namespace quern
