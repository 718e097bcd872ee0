#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "pipeline/quantized_module.h"
#include "pipeline/run_context.h"

namespace quern {

/// What a verification looked at and what it found wrong, in order of file and tensor.
struct VerifyResult {
  std::int64_t files = 0;
  std::int64_t quantized_modules = 0;
  std::int64_t other_tensors = 0;
  std::vector<std::string> problems;  ///< empty: the output is what the quantizer reported

  bool passed() const noexcept { return problems.empty(); }
};

/// SHA-256 of files by name.
using FileHashes = std::map<std::string, std::string>;

/// SHA256SUMS against every file of an exported folder; files missing or not listed are problems.
/// known: of files that this process has just read; they are not read again.
VerifyResult verify_sums(const std::filesystem::path& folder, const FileHashes& known = {});

/// Collective. Reopens the output of a finished run and compares it with the state store and the
/// source: packed modules are decoded by the reader (no code of the writer) and must hash to what
/// the solver reported from the device; dequantized modules must be the nearest values of their
/// type; everything else must equal the source. The result is complete on rank 0.
/// modules: what the solver reported of each committed one. known: as in verify_sums, on rank 0.
VerifyResult verify_output(RunContext& context, std::span<const ModuleSummary> modules,
                           const FileHashes& known = {});

}  // namespace quern
