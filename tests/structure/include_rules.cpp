#include <algorithm>
#include <array>
#include <utility>

#include "tests/structure/file_rules.h"

namespace quern::test {
namespace {

/// Lowest first; a file may include its own layer and those before it.
constexpr std::array<std::string_view, 5> kLayers = {"kernels", "workers", "pipeline", "jobs",
                                                     "tests"};

/// Folders whose files are strangers to each other and to the folders listed beside them.
/// Only the interface is shared, and only its source or registry.cpp, the table, knows them all.
struct Strangers {
  std::string_view folder;
  std::string_view interface;
  std::string_view other;  ///< a folder that is not included either; empty: none
};
constexpr std::array<Strangers, 3> kStrangers = {{
    {"pipeline/quantizers", "quantizer", "pipeline/exporters"},
    {"pipeline/exporters", "exporter", "pipeline/quantizers"},
    {"pipeline/stages", "stage", ""},
}};

/// Folders behind an interface: only they, their tests and the benchmarks include them.
constexpr std::array<std::string_view, 2> kBackends = {"kernels/cpu", "kernels/cuda"};

struct Fence {
  std::string_view prefix;  ///< of the included path
  std::vector<std::string_view> folders;
};
const std::vector<Fence>& fences() {
  static const std::vector<Fence> kFences = {
      {"cuda", {"kernels/cuda"}},
      {"cublas", {"kernels/cuda"}},
      {"cub/", {"kernels/cuda"}},
      {"thrust/", {"kernels/cuda"}},
      {"mpi", {"workers/comm"}},
      {"nccl", {"workers/comm"}},
      {"hdf5", {"workers/store"}},
      {"H5", {"workers/store"}},
      {"yaml-cpp/", {"pipeline/config"}},
      {"CLI/", {"jobs"}},
      {"cblas", {"kernels/cpu"}},
      {"lapack", {"kernels/cpu"}},
      {"openblas", {"kernels/cpu"}},
      {"pcre2", {"pipeline/data"}},
      {"utf8proc", {"pipeline/data"}},
      {"zlib", {"pipeline/data", "workers/tensors"}},
      {"spdlog/", {"workers", "pipeline", "jobs"}},
  };
  return kFences;
}

/// -1 where the path begins with no folder of ours.
int layer_of(std::string_view path) {
  const auto found = std::find_if(kLayers.begin(), kLayers.end(),
                                  [&](auto layer) { return is_below(path, layer); });
  return found == kLayers.end() ? -1 : static_cast<int>(found - kLayers.begin());
}

std::string_view folder_of(std::string_view path) {
  return path.substr(0, std::min(path.rfind('/'), path.size()));
}

std::string_view stem_of(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  if (slash != std::string_view::npos) path.remove_prefix(slash + 1);
  return path.substr(0, path.rfind('.'));
}

/// gptq.cpp and gptq_dynamic.h are parts of one thing.
bool is_same_subject(std::string_view a, std::string_view b) {
  if (a.size() > b.size()) std::swap(a, b);
  return b.starts_with(a) && (a.size() == b.size() || b[a.size()] == '_');
}

bool breaks_strangers(std::string_view file, std::string_view included) {
  for (const Strangers& rule : kStrangers) {
    if (!is_below(file, rule.folder)) continue;
    if (!rule.other.empty() && is_below(included, rule.other)) return true;
    if (!is_below(included, rule.folder)) continue;
    const std::string_view own = stem_of(file);
    const std::string_view theirs = stem_of(included);
    const bool table = own == rule.interface || own == "registry";
    if (!is_same_subject(own, theirs) && theirs != rule.interface && !table) return true;
  }
  return false;
}

bool breaks_backend(std::string_view file, std::string_view included) {
  return std::any_of(kBackends.begin(), kBackends.end(), [&](auto backend) {
    return is_below(included, backend) && !is_below(file, backend) &&
           !is_below(file, "tests/bench") && !is_below(file, "tests/" + std::string(backend));
  });
}

}  // namespace

bool is_below(std::string_view path, std::string_view folder) {
  return path.substr(0, folder.size()) == folder &&
         (path.size() == folder.size() || path[folder.size()] == '/');
}

void check_include_direction(const SourceFile& file, std::vector<Violation>& found) {
  const auto report = [&](const Include& include, const std::string& what) {
    found.push_back({Rule::include_direction, file.path, include.line,
                     "includes " + include.path + ", but " + what});
  };
  for (const Include& include : file.text.includes) {
    const int layer = layer_of(include.path);
    if (layer < 0) {
      if (include.quoted) {
        report(include, "quotes are for paths from the root; write the full path or <..>");
      }
    } else if (layer > layer_of(file.path)) {
      report(include, "includes point one way: jobs, pipeline, workers, kernels");
    } else if (breaks_strangers(file.path, include.path)) {
      report(include, "siblings are strangers in " + std::string(folder_of(file.path)) +
                          "; share through the interface header or a lower folder");
    } else if (breaks_backend(file.path, include.path)) {
      report(include, "a backend is reached through kernels/backend.h only");
    }
  }
}

void check_fences(const SourceFile& file, std::vector<Violation>& found) {
  std::string_view home = file.path;
  if (is_below(home, "tests")) home.remove_prefix(std::min<std::size_t>(home.size(), 6));
  for (const Include& include : file.text.includes) {
    for (const Fence& fence : fences()) {
      if (layer_of(include.path) >= 0 || !include.path.starts_with(fence.prefix)) continue;
      const bool inside = std::any_of(fence.folders.begin(), fence.folders.end(),
                                      [&](auto folder) { return is_below(home, folder); });
      if (inside) continue;
      found.push_back({Rule::fence, file.path, include.line,
                       "includes " + include.path + ", which belongs to " +
                           std::string(fence.folders.front()) + "; go through its interface"});
    }
  }
}

}  // namespace quern::test
