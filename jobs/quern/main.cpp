#include "jobs/quern/blas_core.h"
#include "jobs/quern/commands.h"

int main(int argc, char** argv) {
  quern::choose_blas_core(argv);
  return quern::quern_main(argc, argv, {});
}
