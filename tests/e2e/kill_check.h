#pragma once

#include <string>
#include <vector>

#include "tests/e2e/run_folder.h"

namespace quern::test {

/// A small run, what an undisturbed one writes, and the check that a kill costs only time.
class KillCheck {
 public:
  explicit KillCheck(Command settings = {});

  const std::filesystem::path& model() const noexcept { return model_.path(); }
  const std::map<std::string, std::string>& reference() const noexcept { return reference_; }
  /// The commit steps of the undisturbed run on one rank, in order.
  const std::vector<std::string>& steps() const noexcept { return steps_; }

  /// A fresh run on `ranks` ranks whose last rank is killed at its `step`; then checks what is left
  /// and resumes on `resume_ranks` ranks.
  void kill_and_resume(int step, int ranks, int resume_ranks) const;
  /// After a kill: the output is absent or whole, and `quern status` tells the state.
  void expect_sound(const RunFolder& run) const;
  /// Resumes, and compares the output with the undisturbed one.
  void expect_resumed(const RunFolder& run, int ranks) const;

 private:
  TwoLayerModel model_;
  Command settings_;
  std::map<std::string, std::string> reference_;
  std::vector<std::string> steps_;
};

/// Operation and kind of file of a step: "before rename .../bundle-03.h5" -> "before rename
/// bundle-.h". Empty for what leaves the same state as the step before it.
std::string kind_of(const std::string& step);

/// Numbers, from 1, of steps that stand for all: each operation on each kind of file once, and
/// every `stride`-th.
std::vector<int> telling_steps(const std::vector<std::string>& steps, int stride);

}  // namespace quern::test
