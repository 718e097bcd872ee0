#include "pipeline/sweep.h"

#include "jobs/quern/long_job.h"

namespace quern {

void add_sweep(CLI::App& app, CommandContext& context) {
  add_long_job(
      app, context,
      {"sweep", "quantize at every point of the run file's sweep from one statistics pass; resumes",
       run_sweep});
}

}  // namespace quern
