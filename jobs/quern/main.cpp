#include "jobs/quern/commands.h"

int main(int argc, char** argv) {
  return quern::quern_main(argc, argv, {});
}
