#include "jobs/quern/long_job.h"

namespace quern {

void add_quantize(CLI::App& app, CommandContext& context) {
  add_long_job(
      app, context,
      {"quantize", "quantize a model, export, verify and evaluate it; resumes an interrupted run",
       run_quantize});
}

}  // namespace quern
