#pragma once

#include "kernels/cuda_backend.h"
#include "tests/workers/test_session.h"

namespace quern::test {

inline constexpr const char* kNoGpu = "needs a GPU, found none";

/// One rank without MPI on the first GPU, with activations of this type.
inline Session gpu_session(DType activation) {
  const Session logs_nowhere = quiet_session();
  return make_session(
      nullptr, logs_nowhere.log,
      {.threads = 2, .device = {.kind = DeviceKind::cuda, .activation = activation}});
}

}  // namespace quern::test
