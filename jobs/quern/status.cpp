#include "pipeline/status.h"

#include <fmt/format.h>

#include "jobs/quern/commands.h"
#include "jobs/quern/options.h"

namespace quern {

void add_status(CLI::App& app, CommandContext& context) {
  CLI::App* command =
      app.add_subcommand("status", "how far a run is, while it runs and after it died");
  const auto directory = std::make_shared<std::string>();
  const auto json = std::make_shared<bool>(false);
  command->add_option("RUN_DIRECTORY", *directory, "run.directory of a quantize run")->required();
  command->add_flag("--json", *json, "one JSON object on standard output");
  command->callback([&context, directory, json] {
    context.exit_code = guarded([&] {
      const nlohmann::json status = run_status(*directory);
      fmt::print("{}", *json ? status.dump() + "\n" : status_text(status));
    });
  });
}

}  // namespace quern
