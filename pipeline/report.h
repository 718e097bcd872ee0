#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/quantized_module.h"
#include "pipeline/run_context.h"
#include "pipeline/stages/evaluate.h"
#include "pipeline/stages/export.h"
#include "pipeline/stages/verify.h"

namespace quern {

/// Everything a finished run has to say.
struct RunOutcome {
  std::optional<Perplexity> before;
  std::optional<Perplexity> after;
  ExportResult exported;
  VerifyResult verified;
  double seconds = 0.0;
};

/// Collective: gathers stage times and peak memory of all ranks and the metrics of all modules.
/// The result is complete on rank 0.
nlohmann::json make_report(RunContext& context, const RunOutcome& outcome);

/// A self-contained page of the same content, readable on a phone and printed.
std::string report_html(const nlohmann::json& report);

/// The few lines a run ends with on the terminal.
std::string report_summary(const nlohmann::json& report, const std::filesystem::path& directory);

}  // namespace quern
