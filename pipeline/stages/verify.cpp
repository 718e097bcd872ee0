#include "pipeline/stages/verify.h"

#include <fmt/format.h>

#include <array>
#include <exception>
#include <future>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "kernels/core/error.h"
#include "pipeline/gather_json.h"
#include "pipeline/output_check.h"
#include "workers/agreement.h"
#include "workers/files/atomic_file.h"
#include "workers/files/hash.h"
#include "workers/parallel.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

FileHashes parse_sums(const fs::path& path) {
  FileHashes sums;
  std::istringstream lines(read_text_file(path));
  for (std::string line; std::getline(lines, line);) {
    if (line.size() < 67 || line.substr(64, 2) != "  ") {
      throw InputError(fmt::format("{}: line '{}' is not '<sha256>  <name>'", path.string(), line));
    }
    sums[line.substr(66)] = line.substr(0, 64);
  }
  return sums;
}

/// What ranks found out about the tensors of the output.
struct ComparedTensors {
  std::int64_t quantized_modules = 0;
  std::int64_t others = 0;
  std::map<std::size_t, std::string> problems;  ///< by place of the tensor in the model
};

/// This rank's share of the tensors of the output folder.
ComparedTensors compare_tensors(RunContext& context, std::span<const ModuleSummary> modules) {
  const Session& session = context.session;
  const OpenModel output =
      open_model(context.config.output.path, context.config.model.ignore_fields);
  const OutputCheck check(context, output, modules);
  std::vector<TensorPart> mine;
  const std::vector<TensorPart> all = check.parts();
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (static_cast<int>(i) % session.ranks() == session.rank()) mine.push_back(all[i]);
  }
  std::vector<std::uint8_t> passed(mine.size());
  run_parallel(mine.size(), session.threads,
               [&](std::size_t i) { passed[i] = check.passes(mine[i]) ? 1 : 0; });
  ComparedTensors result;
  for (std::size_t i = 0; i < mine.size(); ++i) {
    const TensorNode& node = *check.tensors()[mine[i].tensor];
    if (mine[i].first == 0) {
      ++(check.is_quantized(node) ? result.quantized_modules : result.others);
    }
    if (passed[i] == 0) result.problems.emplace(mine[i].tensor, check.problem_of(node));
  }
  return result;
}

/// Collective: what all ranks found out, on rank 0.
ComparedTensors merged(Session& session, const ComparedTensors& mine) {
  std::array<std::int64_t, 2> counts = {mine.quantized_modules, mine.others};
  session.communicator->sum(counts);
  ComparedTensors all{counts[0], counts[1], {}};
  for (const nlohmann::json& problems : gather_json(session, mine.problems)) {
    all.problems.merge(problems.get<std::map<std::size_t, std::string>>());
  }
  return all;
}

}  // namespace

VerifyResult verify_sums(const fs::path& folder, const FileHashes& known) {
  VerifyResult result;
  FileHashes sums = parse_sums(folder / "SHA256SUMS");
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name == "SHA256SUMS") continue;
    ++result.files;
    const auto listed = sums.find(name);
    if (listed == sums.end()) {
      result.problems.push_back(fmt::format("file '{}' is not listed in SHA256SUMS", name));
      continue;
    }
    const auto computed = known.find(name);
    if ((computed == known.end() ? sha256_file(entry.path()) : computed->second) !=
        listed->second) {
      result.problems.push_back(fmt::format("file '{}' does not match SHA256SUMS", name));
    }
    sums.erase(listed);
  }
  for (const auto& [name, hash] : sums) {
    result.problems.push_back(fmt::format("file '{}' is listed in SHA256SUMS but missing", name));
  }
  return result;
}

VerifyResult verify_output(RunContext& context, std::span<const ModuleSummary> modules,
                           const FileHashes& known) {
  Session& session = context.session;
  const auto lap = context.watch.lap("verify");
  session.enter("verify");
  const fs::path& folder = context.config.output.path;
  std::future<VerifyResult> sums = std::async(std::launch::async, [&] {
    return session.is_root() ? verify_sums(folder, known) : VerifyResult{};
  });
  ComparedTensors tensors;
  std::exception_ptr failure;
  bool readable = true;
  try {
    tensors = compare_tensors(context, modules);
  } catch (const InputError&) {
    failure = std::current_exception();
    readable = false;
  } catch (...) {
    failure = std::current_exception();
  }
  VerifyResult result;
  run_agreed(session, [&] { result = sums.get(); });
  // Where the sums have named a file, it need not be readable.
  const bool damaged = any_rank(session, !result.passed());
  run_agreed(session, [&] {
    if (failure && (readable || !damaged)) std::rethrow_exception(failure);
  });
  tensors = merged(session, tensors);
  result.quantized_modules = tensors.quantized_modules;
  result.other_tensors = tensors.others;
  for (const auto& [tensor, problem] : tensors.problems) result.problems.push_back(problem);
  return result;
}

}  // namespace quern
