#include "pipeline/data/post_processor.h"

namespace quern {

void PostProcessor::append(const PostProcessor& next) {
  before.insert(before.begin(), next.before.begin(), next.before.end());
  behind.insert(behind.end(), next.behind.begin(), next.behind.end());
}

std::vector<std::int32_t> PostProcessor::apply(std::vector<std::int32_t> ids) const {
  ids.insert(ids.begin(), before.begin(), before.end());
  ids.insert(ids.end(), behind.begin(), behind.end());
  return ids;
}

}  // namespace quern
