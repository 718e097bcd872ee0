#pragma once

#include <cstdint>
#include <vector>

namespace quern {

/// What a "post_processor" of tokenizer.json puts around the ids of one text.
struct PostProcessor {
  std::vector<std::int32_t> before;
  std::vector<std::int32_t> behind;

  /// Runs `next` on what this one gives.
  void append(const PostProcessor& next);
  std::vector<std::int32_t> apply(std::vector<std::int32_t> ids) const;
};

}  // namespace quern
