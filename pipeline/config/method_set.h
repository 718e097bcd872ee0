#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include "pipeline/config/run_config.h"

namespace quern {

/// The methods that a key has an effect on; all of them unless listed.
class MethodSet {
 public:
  constexpr MethodSet() = default;
  constexpr MethodSet(std::initializer_list<Method> methods) : mask_(0) {
    for (const Method method : methods) mask_ |= bit(method);
  }

  static constexpr MethodSet none() noexcept {
    MethodSet set;
    set.mask_ = 0;
    return set;
  }

  constexpr bool contains(Method method) const noexcept { return (mask_ & bit(method)) != 0; }
  constexpr bool holds_all() const noexcept { return mask_ == kAll; }
  constexpr bool meets(MethodSet other) const noexcept { return (mask_ & other.mask_) != 0; }
  constexpr void insert(Method method) noexcept { mask_ |= bit(method); }

  /// "rtn or gptq".
  std::string names() const;

 private:
  static constexpr std::uint32_t bit(Method method) noexcept {
    return 1U << static_cast<std::uint32_t>(method);
  }
  static constexpr std::uint32_t kAll = 0b111;

  std::uint32_t mask_ = kAll;
};

}  // namespace quern
