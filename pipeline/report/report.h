#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/flows/quantize_run.h"
#include "pipeline/report/report_html.h"
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
  StatisticsOrigin statistics;
  nlohmann::json modules = nlohmann::json::array();  ///< module_rows()
  bool is_whole = true;  ///< nothing was left by an earlier job or shared by another run
  double seconds = 0.0;
};

/// Collective: gathers stage times and peak memory of all ranks. The result is complete on rank 0.
nlohmann::json make_report(RunContext& context, const RunOutcome& outcome);

/// The few lines a run ends with on the terminal.
std::string report_summary(const nlohmann::json& report, const std::filesystem::path& directory);

}  // namespace quern
