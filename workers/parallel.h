#pragma once

#include <cstddef>
#include <functional>

namespace quern {

/// Calls task(0) ... task(count - 1), each once, on at most `threads` threads, the caller's among
/// them; they begin in this order. If tasks throw, no further one begins, and the exception of the
/// first of them is thrown when all that run are done.
void run_parallel(std::size_t count, int threads, const std::function<void(std::size_t)>& task);

}  // namespace quern
