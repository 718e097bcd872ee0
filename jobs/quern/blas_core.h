#pragma once

namespace quern {

/// OpenBLAS picks its kernels when it is loaded, and versions before 0.3.22 take processors newer
/// than themselves for ones without AVX-512, at half the speed. Where the processor has it and the
/// user has not chosen (OPENBLAS_CORETYPE), starts this program again with the AVX-512 kernels
/// named. Returns when there is nothing to change.
void choose_blas_core(char** argv);

}  // namespace quern
