#pragma once

#include <functional>
#include <string>

#include "kernels/core/error.h"
#include "workers/session.h"

namespace quern {

/// What an exception means to the user.
struct Failure {
  std::string message;
  ExitCode code;
};

/// The exception in flight; call in a catch block. Quern's own errors speak for themselves, memory
/// and file system exceptions of the standard library get their exit codes, anything else is a bug.
Failure describe_exception();

/// Another rank failed; it reports the reason itself. Ends this rank with the same exit code.
class PeerError : public Error {
 public:
  PeerError(ExitCode code, const std::string& message) : Error(code, message) {}
};

/// Collective. Runs `work`, which must not contain collectives, on every rank; if it throws on any,
/// all ranks throw: the first failing one its own error, the others PeerError with its exit code
/// and message. One rank's exception never becomes the others' deadlock.
void run_agreed(Session& session, const std::function<void()>& work);

/// Collective. True if `flag` is set on any rank.
bool any_rank(Session& session, bool flag);

}  // namespace quern
