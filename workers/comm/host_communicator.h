#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "workers/comm/communicator.h"

namespace quern {

enum class Collective : std::uint8_t {
  barrier,
  broadcast,
  gather,
  sum,
  maximum,
  tensor_broadcast,
  reduce_sum
};

/// What all ranks must have called alike. Internal to workers/comm, as is all of this header.
struct Call {
  Collective kind;
  std::size_t bytes = 0;
  int root = 0;

  std::string_view name() const;
  /// "reduce_sum of 24 bytes, root 0".
  std::string text() const;
};

/// A communicator on which another one builds its tensor collectives.
class HostCommunicator : public Communicator {
 public:
  /// Waits, asleep, until every rank is here, checks that all mean the same, then runs `work`, this
  /// rank's part of it. Errors as of any collective. Whatever leaves `work` breaks the
  /// communicator: every further call throws CommunicationError.
  virtual void with_all_ranks(const Call& call, const std::function<void()>& work) = 0;
};

}  // namespace quern
