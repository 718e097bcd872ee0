#include "jobs/quern/blas_core.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <string>

namespace quern {
namespace {

/// All the instruction sets that the AVX-512 kernels use, by the kernel's list of the processor's.
bool has_avx512() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("flags")) continue;
    line += ' ';
    return std::ranges::all_of(
        std::array{" avx512f ", " avx512dq ", " avx512bw ", " avx512vl ", " avx512cd "},
        [&](const char* flag) { return line.find(flag) != std::string::npos; });
  }
  return false;
}

}  // namespace

void choose_blas_core(char** argv) {
  constexpr const char* kName = "OPENBLAS_CORETYPE";
  if (!has_avx512() || std::getenv(kName) != nullptr) return;
  setenv(kName, "SkylakeX", 0);
  execv("/proc/self/exe", argv);
}

}  // namespace quern
