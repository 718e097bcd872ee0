#include "pipeline/data/text.h"

#include <algorithm>

#include "pipeline/data/utf8.h"

namespace quern {

Documents::Documents(const TextConfig& config)
    : raw_(config.source, config.max_characters),
      field_(config.field),
      limited_(config.max_characters > 0),
      characters_left_(config.max_characters) {}

bool Documents::next(std::string& text) {
  if (limited_ && !first_) {
    characters_left_ -= static_cast<std::int64_t>(kDocumentSeparator.size());
  }
  if (limited_ && characters_left_ <= 0) return false;
  RawDocument raw;
  if (!raw_.next(raw)) return false;
  text = document_text(std::move(raw), field_);
  first_ = false;
  if (limited_) text.resize(take_characters(text, characters_left_));
  return true;
}

}  // namespace quern
