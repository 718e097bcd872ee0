#include "pipeline/config/rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "kernels/core/error.h"

namespace quern {
namespace {

// The matcher recurses once per character of the name and per node of the expression.
constexpr std::size_t kMaxExpressionBytes = 512;
constexpr std::size_t kMaxNameBytes = 512;
constexpr int kMaxRepetitions = 6;
constexpr const char* kTooMany = "more than 6 repetitions";

/// One pass over an expression, looking for repetitions whose matching can take forever.
class RepetitionScan {
 public:
  explicit RepetitionScan(std::string_view expression) : expression_(expression) {}

  std::string complaint() {
    for (; at_ < expression_.size(); ++at_) {
      switch (expression_[at_]) {
        case '\\':
          ++at_;
          closed_varies_ = false;
          continue;
        case '[':
          skip_class();
          closed_varies_ = false;
          continue;
        case '(':
          varies_.push_back(false);
          break;
        case ')':
          close();
          continue;
        case '|':
          varies_.back() = true;
          break;
        case '?':
          if (at_ > 0 && expression_[at_ - 1] == '(') break;  // (?: (?= (?!
          if (!count_repetition()) return kTooMany;
          break;
        case '*':
        case '+':
        case '{':
          if (closed_varies_) return "a repeated group that itself repeats or has alternatives";
          if (varies() && !count_repetition()) return kTooMany;
          break;
        default:
          break;
      }
      closed_varies_ = false;
    }
    return {};
  }

 private:
  void skip_class() {
    for (++at_; at_ < expression_.size() && expression_[at_] != ']'; ++at_) {
      if (expression_[at_] == '\\') ++at_;
    }
  }

  void close() {
    closed_varies_ = varies_.back();
    if (varies_.size() > 1) varies_.pop_back();
    if (closed_varies_) varies_.back() = true;
  }

  bool count_repetition() {
    varies_.back() = true;
    return ++repetitions_ <= kMaxRepetitions;
  }

  /// False for {n}, which matches in one way only.
  bool varies() const {
    const std::string_view rest = expression_.substr(at_);
    return rest.front() != '{' || rest.substr(0, rest.find('}')).find(',') != rest.npos;
  }

  std::string_view expression_;
  std::size_t at_ = 0;
  int repetitions_ = 0;
  bool closed_varies_ = false;       ///< the last character closed a group whose match can vary
  std::vector<bool> varies_{false};  ///< of the open groups, the whole expression first
};

}  // namespace

ModuleSettings settings_for(const QuantizeConfig& quantize, std::string_view module_name) {
  if (module_name.size() > kMaxNameBytes) {
    throw InputError(
        fmt::format("module '{}...': the name has {} bytes; expected at most {}; check "
                    "the checkpoint",
                    module_name.substr(0, 60), module_name.size(), kMaxNameBytes));
  }
  ModuleSettings settings{.skip = false, .grid = quantize.grid};
  const auto rule = std::find_if(
      quantize.rules.begin(), quantize.rules.end(), [&](const QuantizeRule& candidate) {
        return std::regex_match(module_name.begin(), module_name.end(), candidate.expression);
      });
  if (rule == quantize.rules.end()) return settings;
  settings.skip = rule->skip;
  settings.grid.bits = rule->bits.value_or(settings.grid.bits);
  settings.grid.group_size = rule->group_size.value_or(settings.grid.group_size);
  settings.grid.symmetric = rule->symmetric.value_or(settings.grid.symmetric);
  return settings;
}

std::string match_complaint(const std::string& match) {
  if (match.size() > kMaxExpressionBytes) {
    return fmt::format("the expression has {} bytes, more than {}", match.size(),
                       kMaxExpressionBytes);
  }
  if (std::string found = RepetitionScan(match).complaint(); !found.empty()) {
    return fmt::format("the expression has {}, which can take forever to match", found);
  }
  try {
    const std::regex compiled(match, std::regex::ECMAScript);
  } catch (const std::regex_error& error) {
    return fmt::format("not a regular expression: {}", error.what());
  }
  return {};
}

}  // namespace quern
