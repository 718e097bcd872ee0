#include "workers/tensors/pickle_machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <deque>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utility>

#include "kernels/core/error.h"
#include "workers/tensors/safetensors_header.h"

namespace quern {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are used as they lie");

constexpr std::size_t kMaxMarks = 64;
constexpr std::size_t kMaxValues = 8 << 20;

constexpr std::array<std::string_view, 11> kKindNames = {
    "None",   "a bool", "an integer", "a float", "a string",       "a tuple",
    "a list", "a dict", "a global",   "a call",  "a persistent id"};

using Kind = PickleKind;

class PickleMachine {
 public:
  PickleMachine(std::span<const std::byte> pickle, std::string_view origin)
      : pickle_(pickle), origin_(origin) {}

  PickleGraph run() {
    while (!stopped_) {
      op_at_ = at_;
      const auto code = take<std::uint8_t>();
      const auto* op = std::ranges::find(kOps, code, &Op::code);
      if (op == kOps.end()) {
        fail(fmt::format("operation {:#04x} is not one that torch.save writes for tensors", code));
      }
      (this->*op->run)();
    }
    if (at_ != pickle_.size()) fail("the pickle goes on behind its end");
    if (stack_.size() != 1) fail("the pickle does not leave one value");
    return {std::move(values_), stack_.back()};
  }

 private:
  struct Op {
    std::uint8_t code;
    void (PickleMachine::*run)();
  };
  static const std::array<Op, 40> kOps;

  [[noreturn]] void fail(const std::string& what) const {
    throw InputError(fmt::format("{}: at byte {}: {}", origin_, op_at_, what));
  }

  // What is read from the pickle.

  std::string_view take_bytes(std::uint64_t count) {
    if (count > pickle_.size() - at_) {
      fail(fmt::format("{} bytes are called for, {} are left; the pickle is truncated", count,
                       pickle_.size() - at_));
    }
    const char* begin = reinterpret_cast<const char*>(pickle_.data()) + at_;
    at_ += count;
    return {begin, static_cast<std::size_t>(count)};
  }
  template <typename T>
  T take() {
    T number{};
    std::memcpy(&number, take_bytes(sizeof(T)).data(), sizeof(T));
    return number;
  }
  std::string_view take_line() {
    const auto rest = pickle_.subspan(at_);
    const auto length = std::ranges::find(rest, std::byte{'\n'}) - rest.begin();
    return take_bytes(static_cast<std::uint64_t>(length) + 1)
        .substr(0, static_cast<std::size_t>(length));
  }

  // The stack.

  void push(PickleValue made) {
    if (values_.size() == kMaxValues) {
      fail(fmt::format("the pickle makes more than {} values", kMaxValues));
    }
    stack_.push_back(static_cast<PickleId>(values_.size()));
    values_.push_back(std::move(made));
  }
  PickleId pop() {
    if (stack_.size() == (marks_.empty() ? 0 : marks_.back())) fail("a value is missing");
    const PickleId id = stack_.back();
    stack_.pop_back();
    return id;
  }
  std::vector<PickleId> pop_some(std::size_t count) {
    std::vector<PickleId> items(count);
    for (std::size_t i = count; i > 0; --i) items[i - 1] = pop();
    return items;
  }
  std::vector<PickleId> pop_to_mark() {
    if (marks_.empty()) fail("a mark is missing");
    const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<PickleId> items(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return items;
  }
  PickleValue& value(PickleId id) { return values_[id]; }
  /// The uppermost value, which stays, and must be a container of this kind.
  PickleValue& container(Kind kind) {
    const PickleId id = pop();
    stack_.push_back(id);
    expect(value(id), kind, "what is added to");
    return value(id);
  }
  void expect(const PickleValue& found, Kind kind, std::string_view what) const {
    if (found.kind == kind) return;
    fail(fmt::format("{} is {}, expected {}", what, kind_name(found.kind), kind_name(kind)));
  }

  // Operations.

  void protocol() {
    const auto version = take<std::uint8_t>();
    if (version < 2 || version > 5) fail(fmt::format("protocol {}, expected 2 to 5", version));
  }
  void frame() {
    const auto bytes = take<std::uint64_t>();
    if (bytes > pickle_.size() - at_) fail("a frame runs over the end; the pickle is truncated");
  }
  void stop() { stopped_ = true; }
  void mark() {
    if (marks_.size() == kMaxMarks) fail(fmt::format("nested more than {} deep", kMaxMarks));
    marks_.push_back(stack_.size());
  }
  void drop() { pop(); }
  void drop_to_mark() { pop_to_mark(); }
  void duplicate() {
    const PickleId id = pop();
    stack_.insert(stack_.end(), {id, id});
  }
  void none() { push({}); }
  void boolean_true() { push({.kind = Kind::boolean, .integer = 1}); }
  void boolean_false() { push({.kind = Kind::boolean}); }
  template <typename T>
  void number() {
    push({.kind = Kind::integer, .integer = take<T>()});
  }
  void long_number() {
    const auto bytes = take<std::uint8_t>();
    if (bytes > 8) fail(fmt::format("an integer of {} bytes, expected at most 8", bytes));
    const std::string_view digits = take_bytes(bytes);
    std::uint64_t bits = 0;
    for (std::size_t i = 0; i < 8; ++i) {
      const bool negative = bytes > 0 && (digits[bytes - 1U] & 0x80) != 0;
      const auto fill = static_cast<std::uint8_t>(negative ? 0xFF : 0);
      const auto digit = i < bytes ? static_cast<std::uint8_t>(digits[i]) : fill;
      bits |= std::uint64_t{digit} << (8 * i);
    }
    push({.kind = Kind::integer, .integer = static_cast<std::int64_t>(bits)});
  }
  void real_number() {
    take_bytes(8);
    push({.kind = Kind::real});
  }
  template <typename Length>
  void text() {
    const auto length = take<Length>();
    push({.kind = Kind::text, .text = take_bytes(length)});
  }
  void make(Kind kind, std::vector<PickleId> items) {
    push({.kind = kind, .items = std::move(items)});
  }
  template <std::size_t Count>
  void tuple() {
    make(Kind::tuple, pop_some(Count));
  }
  void tuple_of_marked() { make(Kind::tuple, pop_to_mark()); }
  void empty_list() { make(Kind::list, {}); }
  void list_of_marked() { make(Kind::list, pop_to_mark()); }
  void empty_dict() { make(Kind::dict, {}); }
  void dict_of_marked() { make(Kind::dict, pairs(pop_to_mark())); }
  std::vector<PickleId> pairs(std::vector<PickleId> items) const {
    if (items.size() % 2 != 0) fail("a dict's key has no value");
    return items;
  }
  void extend(Kind kind, const std::vector<PickleId>& items) {
    PickleValue& target = container(kind);
    target.items.insert(target.items.end(), items.begin(), items.end());
  }
  void append() { extend(Kind::list, pop_some(1)); }
  void append_marked() { extend(Kind::list, pop_to_mark()); }
  void set_item() { extend(Kind::dict, pop_some(2)); }
  void set_marked() { extend(Kind::dict, pairs(pop_to_mark())); }
  template <typename Index>
  void remember() {
    const auto index = take<Index>();
    const PickleId id = pop();
    stack_.push_back(id);
    memo_[index] = id;
  }
  void remember_next() {
    const PickleId id = pop();
    stack_.push_back(id);
    const auto index = static_cast<std::uint32_t>(memo_.size());
    memo_[index] = id;
  }
  template <typename Index>
  void recall() {
    const auto index = take<Index>();
    const auto found = memo_.find(index);
    if (found == memo_.end()) fail(fmt::format("memo {} was never set", index));
    stack_.push_back(found->second);
  }
  void global() {
    const std::string_view module = take_line();
    push_global(module, take_line());
  }
  void global_of_stack() {
    const std::vector<PickleId> names = pop_some(2);
    for (const PickleId id : names) expect(value(id), Kind::text, "the name of a global");
    push_global(value(names[0]).text, value(names[1]).text);
  }
  void push_global(std::string_view module, std::string_view name) {
    const PickleGlobal* row = find_pickle_global(module, name);
    if (row == nullptr) {
      fail(
          fmt::format("names {}, which is not allowed in a file of tensors; nothing was executed; "
                      "do not use files from sources that are not trusted, or save the tensors "
                      "alone",
                      shown(fmt::format("{}.{}", module, name))));
    }
    push({.kind = Kind::global, .global = row});
  }
  /// Attributes of an ordered dict, which are of no use here.
  void build() {
    pop();
    container(Kind::dict);
  }
  void reduce() {
    const std::vector<PickleId> call = pop_some(2);
    expect(value(call[0]), Kind::global, "what is called");
    expect(value(call[1]), Kind::tuple, "what it is called with");
    if (value(call[0]).global->role != PickleRole::ordered_dict) return make(Kind::call, call);
    if (!value(call[1]).items.empty()) fail("an ordered dict is made of values, expected none");
    make(Kind::dict, {});
  }
  void persistent() { make(Kind::persistent, pop_some(1)); }

  std::span<const std::byte> pickle_;
  std::string_view origin_;
  std::size_t at_ = 0;
  std::size_t op_at_ = 0;
  bool stopped_ = false;
  std::deque<PickleValue> values_;
  std::vector<PickleId> stack_;
  std::vector<std::size_t> marks_;
  std::unordered_map<std::uint32_t, PickleId> memo_;
};

constexpr std::array<PickleMachine::Op, 40> PickleMachine::kOps = {{
    {0x80, &PickleMachine::protocol},
    {0x95, &PickleMachine::frame},
    {'.', &PickleMachine::stop},
    {'(', &PickleMachine::mark},
    {'0', &PickleMachine::drop},
    {'1', &PickleMachine::drop_to_mark},
    {'2', &PickleMachine::duplicate},
    {'N', &PickleMachine::none},
    {0x88, &PickleMachine::boolean_true},
    {0x89, &PickleMachine::boolean_false},
    {'J', &PickleMachine::number<std::int32_t>},
    {'K', &PickleMachine::number<std::uint8_t>},
    {'M', &PickleMachine::number<std::uint16_t>},
    {0x8A, &PickleMachine::long_number},
    {'G', &PickleMachine::real_number},
    {'X', &PickleMachine::text<std::uint32_t>},
    {0x8C, &PickleMachine::text<std::uint8_t>},
    {')', &PickleMachine::tuple<0>},
    {0x85, &PickleMachine::tuple<1>},
    {0x86, &PickleMachine::tuple<2>},
    {0x87, &PickleMachine::tuple<3>},
    {'t', &PickleMachine::tuple_of_marked},
    {']', &PickleMachine::empty_list},
    {'l', &PickleMachine::list_of_marked},
    {'}', &PickleMachine::empty_dict},
    {'d', &PickleMachine::dict_of_marked},
    {'a', &PickleMachine::append},
    {'e', &PickleMachine::append_marked},
    {'s', &PickleMachine::set_item},
    {'u', &PickleMachine::set_marked},
    {'q', &PickleMachine::remember<std::uint8_t>},
    {'r', &PickleMachine::remember<std::uint32_t>},
    {0x94, &PickleMachine::remember_next},
    {'h', &PickleMachine::recall<std::uint8_t>},
    {'j', &PickleMachine::recall<std::uint32_t>},
    {'c', &PickleMachine::global},
    {0x93, &PickleMachine::global_of_stack},
    {'R', &PickleMachine::reduce},
    {'b', &PickleMachine::build},
    {'Q', &PickleMachine::persistent},
}};

}  // namespace

std::string_view kind_name(PickleKind kind) noexcept {
  return kKindNames[static_cast<std::size_t>(kind)];
}

PickleGraph run_pickle(std::span<const std::byte> pickle, std::string_view origin) {
  return PickleMachine(pickle, origin).run();
}

}  // namespace quern
