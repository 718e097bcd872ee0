#include <fmt/format.h>

#include <filesystem>

#include "jobs/quern/commands.h"
#include "jobs/quern/options.h"
#include "kernels/core/error.h"
#include "pipeline/runner.h"

namespace quern {
namespace {

/// Lists the problems and throws if there are any.
void require_passed(const VerifyResult& result, const std::string& subject) {
  for (const std::string& problem : result.problems) fmt::print(stderr, "quern: {}\n", problem);
  if (!result.passed()) {
    throw InputError(fmt::format("{}: verification failed with {} problem{}", subject,
                                 result.problems.size(), result.problems.size() == 1 ? "" : "s"));
  }
}

void verify_folder(const std::string& folder) {
  const VerifyResult result = verify_sums(folder);
  require_passed(result, folder);
  fmt::print("{}: {} files as in SHA256SUMS: verified\n", folder, result.files);
}

}  // namespace

void add_verify(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand(
      "verify", "re-read an exported model and compare it with the run, or with its SHA256SUMS");
  const auto options = std::make_shared<RunFileOptions>();
  add_run_file(*command, *options);
  command->get_option("RUN_FILE")
      ->description("run file of a finished run, or an exported folder (checks SHA256SUMS only)");
  command->callback([&context, options] {
    if (std::filesystem::is_directory(options->path)) {
      context.exit_code = guarded([&] { verify_folder(options->path); });
      return;
    }
    context.exit_code =
        launch(*options, context.commit_hook, [](Session& session, const ParsedRunFile& parsed) {
          const VerifyResult result = run_verify(session, parsed.run);
          session.leaving_together = true;
          if (!session.is_root()) return;
          const std::string subject = parsed.run.output.path.string();
          require_passed(result, subject);
          fmt::print("{}: {} quantized modules, {} other tensors, {} files: verified\n", subject,
                     result.quantized_modules, result.other_tensors, result.files);
        });
  });
}

}  // namespace quern
