#include "jobs/quern/blas_core.h"

#include <unistd.h>

#include <cstdlib>

namespace quern {
namespace {

bool has_avx512() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512cd");
#else
  return false;
#endif
}

}  // namespace

void choose_blas_core(char** argv) {
  constexpr const char* kName = "OPENBLAS_CORETYPE";
  if (!has_avx512() || std::getenv(kName) != nullptr) return;
  setenv(kName, "SkylakeX", 0);
  execv("/proc/self/exe", argv);
}

}  // namespace quern
