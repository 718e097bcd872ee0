#include <fmt/format.h>

#include "jobs/quern/commands.h"
#include "jobs/quern/options.h"
#include "pipeline/config/resolved.h"
#include "pipeline/config/schema.h"

namespace quern {
namespace {

ParsedRunFile parse(const RunFileOptions& options) {
  return parse_run_file(read_run_file(options.path), options.path, options.overrides);
}

}  // namespace

void add_config(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand("config", "check and explain run files");
  command->require_subcommand(1);
  const auto options = std::make_shared<RunFileOptions>();

  CLI::App* validate = command->add_subcommand("validate", "check a run file; no file is touched");
  add_run_file(*validate, *options);
  validate->callback([&context, options] {
    context.exit_code = guarded([&] {
      parse(*options);
      fmt::print("{}: valid\n", options->path);
    });
  });

  CLI::App* show = command->add_subcommand(
      "show", "the resolved run file: every key, its value and where the value comes from");
  add_run_file(*show, *options);
  show->callback([&context, options] {
    context.exit_code = guarded([&] { fmt::print("{}", resolved_text(parse(*options))); });
  });

  CLI::App* schema = command->add_subcommand("schema", "JSON Schema of the run file");
  schema->callback([&context] {
    context.exit_code = guarded([] { fmt::print("{}\n", run_file_schema().dump(2)); });
  });
}

}  // namespace quern
