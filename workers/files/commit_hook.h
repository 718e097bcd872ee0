#pragma once

#include <functional>
#include <string_view>

namespace quern {

/// Called with the name of every step of every durable write, before and after it: "open x",
/// "write x", "fsync x", "rename x", "fsync directory of x", "append journal" ... Tests kill the
/// process in it; production passes an empty one.
using CommitHook = std::function<void(std::string_view step)>;

inline void at_step(const CommitHook& hook, std::string_view step) {
  if (hook) hook(step);
}

}  // namespace quern
