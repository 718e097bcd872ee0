#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace quern {

/// Called before and after every step of every durable write with "before <operation> <path>" and
/// "after <operation> <path>", for example "before rename runs/a/layers/layer-000/bundle-00.h5".
/// Operations: make directory, open, truncate, write, fsync, close, rename, fsync directory.
/// Tests kill the process or throw in it; production passes an empty one.
using CommitHook = std::function<void(std::string_view step)>;

inline void at_step(const CommitHook& hook, std::string_view step) {
  if (hook) hook(step);
}

/// Runs one step of a durable write between its two calls of the hook.
template <typename Action>
void durable_step(const CommitHook& hook, std::string_view operation,
                  const std::filesystem::path& path, Action&& action) {
  const std::string step = hook ? std::string(operation) + " " + path.string() : std::string();
  at_step(hook, "before " + step);
  action();
  at_step(hook, "after " + step);
}

}  // namespace quern
