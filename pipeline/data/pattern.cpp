#include "pipeline/data/pattern.h"

#include <fmt/format.h>
#include <pcre2.h>

#include <array>
#include <optional>

#include "kernels/core/error.h"
#include "pipeline/data/pattern_syntax.h"

namespace quern {
namespace {

template <auto free>
struct Release {
  template <typename T>
  void operator()(T* handle) const noexcept {
    free(handle);
  }
};

template <typename T, auto free>
using Owned = std::unique_ptr<T, Release<free>>;

constexpr std::size_t kJitStackBytes = 64 * 1024;
constexpr std::size_t kJitStackLimitBytes = 64 * 1024 * 1024;

std::string error_text(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

struct Pattern::Compiled {
  Owned<pcre2_code, pcre2_code_free> code;
  std::string source;

  Compiled(std::string_view expression, std::string_view shown, std::uint32_t options)
      : source(shown) {
    Owned<pcre2_compile_context, pcre2_compile_context_free> context(
        pcre2_compile_context_create(nullptr));
    if (!context) throw MemoryError("no memory for a regular expression");
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    int error = 0;
    PCRE2_SIZE offset = 0;
    code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                             options, &error, &offset, context.get()));
    if (!code) {
      throw InputError(fmt::format("the regular expression {} does not compile: {} (in {})", shown,
                                   error_text(error), expression.substr(0, offset)));
    }
    // Without JIT support the interpreter gives the same matches.
    pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  }
};

Pattern Pattern::regex(std::string_view oniguruma) {
  return Pattern(std::make_shared<Compiled>(pcre2_from_oniguruma(oniguruma), oniguruma,
                                            PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C));
}

Pattern Pattern::literal(std::string_view text) {
  if (text.empty()) throw InputError("an empty text cannot be searched for");
  return Pattern(std::make_shared<Compiled>(text, text, PCRE2_UTF | PCRE2_LITERAL));
}

struct PatternMatcher::Scratch {
  Owned<pcre2_match_data, pcre2_match_data_free> data;
  Owned<pcre2_jit_stack, pcre2_jit_stack_free> stack;
  Owned<pcre2_match_context, pcre2_match_context_free> context;
};

PatternMatcher::PatternMatcher(const Pattern& pattern)
    : compiled_(pattern.compiled_), scratch_(std::make_unique<Scratch>()) {
  scratch_->data.reset(pcre2_match_data_create_from_pattern(compiled_->code.get(), nullptr));
  scratch_->stack.reset(pcre2_jit_stack_create(kJitStackBytes, kJitStackLimitBytes, nullptr));
  scratch_->context.reset(pcre2_match_context_create(nullptr));
  if (!scratch_->data || !scratch_->stack || !scratch_->context) {
    throw MemoryError("no memory to match a regular expression");
  }
  pcre2_jit_stack_assign(scratch_->context.get(), nullptr, scratch_->stack.get());
}

PatternMatcher::~PatternMatcher() = default;

bool PatternMatcher::search(std::string_view text, std::size_t from, Span& found) {
  const int code =
      pcre2_match(compiled_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                  from, PCRE2_NO_UTF_CHECK, scratch_->data.get(), scratch_->context.get());
  if (code == PCRE2_ERROR_NOMATCH) return false;
  if (code < 0) {
    throw InputError(fmt::format("the regular expression {} failed at byte {} of a text: {}",
                                 compiled_->source, from, error_text(code)));
  }
  const PCRE2_SIZE* limits = pcre2_get_ovector_pointer(scratch_->data.get());
  found = {limits[0], limits[1]};
  return true;
}

const std::vector<PatternPiece>& PatternMatcher::pieces(std::string_view text) {
  pieces_.clear();
  std::size_t done = 0;
  std::size_t from = 0;
  std::optional<std::size_t> last_end;
  Span found;
  while (from <= text.size() && search(text, from, found)) {
    if (found.empty() && last_end == found.end) {
      from += from < text.size() ? utf8_bytes(text[from]) : 1;
      continue;
    }
    if (done < found.begin) pieces_.push_back({{done, found.begin}, false});
    pieces_.push_back({found, true});
    done = from = found.end;
    last_end = found.end;
  }
  if (done < text.size()) pieces_.push_back({{done, text.size()}, false});
  return pieces_;
}

}  // namespace quern
