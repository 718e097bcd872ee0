#include "workers/files/json_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/error.h"
#include "workers/files/atomic_file.h"

namespace quern {
namespace {

constexpr std::size_t kMaxDepth = 64;
constexpr std::size_t kMaxQuotedBytes = 120;

/// Shortens to kMaxQuotedBytes without splitting a UTF-8 sequence.
std::string excerpt(std::string_view text) {
  if (text.size() <= kMaxQuotedBytes) return std::string(text);
  std::size_t end = kMaxQuotedBytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
  return std::string(text.substr(0, end)) + "...";
}

/// Walks the text and leaves its place behind, because the parser tells only errors where it is.
struct TrackedIterator {
  using iterator_category = std::forward_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at = nullptr;
  const char** reached = nullptr;

  reference operator*() const noexcept { return *at; }
  TrackedIterator& operator++() noexcept {
    *reached = ++at;
    return *this;
  }
  TrackedIterator operator++(int) noexcept {
    const TrackedIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const TrackedIterator& other) const noexcept { return at == other.at; }
  bool operator!=(const TrackedIterator& other) const noexcept { return at != other.at; }
};

/// Receives the parser's events and grows the document; throws where the grammar alone would not.
class DocumentBuilder {
 public:
  using json = nlohmann::json;
  using number_integer_t = json::number_integer_t;
  using number_unsigned_t = json::number_unsigned_t;
  using number_float_t = json::number_float_t;
  using string_t = json::string_t;
  using binary_t = json::binary_t;

  DocumentBuilder(std::string_view text, std::string_view origin)
      : text_(text), origin_(origin), reached_(text.data()) {}

  json parse() {
    if (const std::size_t zero = text_.find('\0'); zero != std::string_view::npos) {
      fail(zero, "a NUL byte, which JSON text never holds; the text is damaged or is not JSON");
    }
    const char* end = text_.data() + text_.size();
    json::sax_parse(TrackedIterator{text_.data(), &reached_}, TrackedIterator{end, &reached_},
                    this);
    return std::move(root_);
  }

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(number_integer_t value) { return add(value); }
  bool number_unsigned(number_unsigned_t value) { return add(value); }
  bool number_float(number_float_t value, const string_t&) { return add(value); }
  bool string(string_t& value) { return add(std::move(value)); }
  bool binary(binary_t& value) { return add(std::move(value)); }

  bool start_object(std::size_t) { return open(json::value_t::object); }
  bool start_array(std::size_t) { return open(json::value_t::array); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }

  bool key(string_t& name) {
    auto& members = open_.back()->get_ref<json::object_t&>();
    const auto [place, inserted] = members.try_emplace(std::move(name));
    if (!inserted) {
      fail(start_of_key(), fmt::format("the key \"{}\" appears twice in one object; every key must "
                                       "be unique",
                                       excerpt(place->first)));
    }
    last_key_ = &place->first;
    member_ = &place->second;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const json::exception& error) {
    std::string_view reason = error.what();
    reason.remove_prefix(std::min(reason.size(), reason.find("] ") + 2));
    if (reason.starts_with("parse error at")) reason.remove_prefix(reason.find(": ") + 2);
    // What was read last may be invalid UTF-8 or megabytes long; the place says enough.
    reason = reason.substr(0, reason.find("; last read:"));
    fail(std::max<std::size_t>(position, 1) - 1, "invalid JSON: " + excerpt(reason) + after_key());
  }

 private:
  template <typename Value>
  bool add(Value&& value) {
    *place() = std::forward<Value>(value);
    return true;
  }

  bool open(json::value_t kind) {
    if (open_.size() == kMaxDepth) {
      fail(offset_reached() - 1,
           fmt::format("nested deeper than {} levels{}", kMaxDepth, after_key()));
    }
    json* container = place();
    *container = json(kind);
    open_.push_back(container);
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  /// Where the next value belongs.
  json* place() {
    if (open_.empty()) return &root_;
    if (open_.back()->is_object()) return member_;
    return &open_.back()->get_ref<json::array_t&>().emplace_back();
  }

  std::size_t offset_reached() const { return static_cast<std::size_t>(reached_ - text_.data()); }

  /// Offset of the opening quote of the key just read: inside it every quote is escaped.
  std::size_t start_of_key() const {
    std::size_t quote = text_.rfind('"', offset_reached() - 2);
    while (text_[quote - 1] == '\\') quote = text_.rfind('"', quote - 1);
    return quote;
  }

  std::string after_key() const {
    return last_key_ == nullptr ? "" : fmt::format(" (last key read: \"{}\")", excerpt(*last_key_));
  }

  [[noreturn]] void fail(std::size_t offset, const std::string& reason) const {
    const std::string_view before = text_.substr(0, std::min(offset, text_.size()));
    const auto line = std::count(before.begin(), before.end(), '\n') + 1;
    const std::size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0: the first line
    throw InputError(fmt::format("{}:{}:{}: {}", origin_, line, offset - line_start + 1, reason));
  }

  std::string_view text_;
  std::string_view origin_;
  const char* reached_;
  json root_;
  // Open containers, innermost last; a parent array does not grow while a child is open.
  std::vector<json*> open_;
  json* member_ = nullptr;
  const std::string* last_key_ = nullptr;
};

}  // namespace

nlohmann::json parse_json(std::string_view text, std::string_view origin) {
  return DocumentBuilder(text, origin).parse();
}

nlohmann::json read_json_file(const std::filesystem::path& path) {
  return parse_json(read_text_file(path), path.string());
}

}  // namespace quern
