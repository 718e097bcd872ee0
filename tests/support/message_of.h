#pragma once

#include <exception>
#include <string>

namespace quern::test {

inline constexpr const char* kNothingThrown = "nothing was thrown";

/// The message of the E that `action` throws; of another exception with a note that it is one.
template <typename E, typename Action>
std::string message_of(const Action& action) {
  try {
    action();
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    return std::string("another exception: ") + error.what();
  }
  return kNothingThrown;
}

}  // namespace quern::test
