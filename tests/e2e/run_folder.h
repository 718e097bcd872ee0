#pragma once

#include <csignal>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/folder_hashes.h"
#include "tests/support/paths.h"
#include "tests/support/process.h"

namespace quern::test {

/// One rank that signals itself at a commit step; step 0: it does not.
struct StepSignal {
  int step = 0;
  int signal = SIGKILL;
  int rank = 0;
  int delay_ms = 0;  ///< that it first waits
};

/// Lines that start the program on some ranks, one rank without mpirun.
Command quern(int ranks, const Command& arguments);
Command quern_stepper(int ranks, const StepSignal& at, const Command& arguments);

/// A checkpoint folder with the first layers of another one and its other files.
void cut_model(const std::filesystem::path& from, int layers, const std::filesystem::path& to);

/// The small model of this repository or another, cut to two layers for tests that run it many
/// times.
class TwoLayerModel {
 public:
  TwoLayerModel();
  explicit TwoLayerModel(const std::filesystem::path& whole);
  const std::filesystem::path& path() const noexcept { return folder_.path(); }

 private:
  TemporaryDirectory folder_;
};

/// Settings that make such a run one of squeezellm, in this format.
Command squeezellm(const std::string& format, const Command& settings = {});

/// A run file in a temporary directory, with its run directory and output beside it. Settings are
/// "key=value" overrides of a small gptq run with one thread and several shards.
class RunFolder {
 public:
  explicit RunFolder(const std::filesystem::path& model, Command settings = {});

  const std::filesystem::path& path() const noexcept { return folder_.path(); }
  std::filesystem::path directory() const { return path() / "run"; }
  std::filesystem::path output() const { return path() / "out"; }
  nlohmann::json report() const;

  /// Arguments of quern for a subcommand with this run file.
  Command arguments(const std::string& subcommand, const Command& settings = {}) const;
  Command quantize(const Command& settings = {}) const { return arguments("quantize", settings); }
  /// Quantizes, and checks that it succeeds.
  ProcessResult finish(int ranks, const Command& settings = {}) const;
  std::map<std::string, std::string> output_hashes() const { return folder_hashes(output()); }
  /// The commit steps of a run on one rank, in order. Finishes the run.
  std::vector<std::string> steps(const std::string& subcommand = "quantize") const;

 private:
  TemporaryDirectory folder_;
  Command settings_;
};

/// Hashes of the output of a fresh run that is not disturbed.
std::map<std::string, std::string> undisturbed_output(const std::filesystem::path& model, int ranks,
                                                      const Command& settings = {});

/// Files below a folder, sorted; none if there is no such folder.
std::vector<std::filesystem::path> files_below(const std::filesystem::path& folder);
/// Bundle files of a run or statistics directory, sorted.
std::vector<std::filesystem::path> bundle_files(const std::filesystem::path& run_directory);

/// Whole file, and a file with new contents.
std::string contents_of(const std::filesystem::path& path);
void replace_contents(const std::filesystem::path& path, const std::string& contents);

}  // namespace quern::test
