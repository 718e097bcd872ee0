#include "pipeline/statistics.h"

namespace quern {

Gram make_gram(Memory& memory, std::int64_t features) {
  Gram gram{memory.allocate(DType::i64, {features, features}),
            memory.allocate(DType::i32, {features}), memory.allocate(DType::i64, {1})};
  memory.clear(gram.sums.view());
  memory.clear(gram.exponents.view());
  memory.clear(gram.overflow.view());
  return gram;
}

}  // namespace quern
