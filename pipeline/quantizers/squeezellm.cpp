#include "pipeline/quantizers/squeezellm.h"

#include "kernels/core/error.h"

namespace quern {
namespace {

class SqueezeLlm final : public Quantizer {
 public:
  explicit SqueezeLlm(const QuantizeConfig& config)
      : refines_(config.codebook_search == CodebookSearch::lnq),
        damping_(config.codebook_damping),
        table_dtype_(config.codebook_type == CodebookType::float16 ? DType::f16 : DType::f32) {}

  StatisticsNeeded needed() const noexcept override { return {.fisher = true, .guided = refines_}; }

  std::vector<SolvedModule> solve(Backend& backend, const InputTask& input,
                                  std::span<const HessianFactor>) const override {
    std::vector<SolvedModule> solved;
    for (const ModuleTask& task : input.modules) {
      solved.push_back(solve_module(backend, task, input.statistics.modules[task.name]));
    }
    return solved;
  }

 private:
  SolvedModule solve_module(Backend& backend, const ModuleTask& task,
                            ModuleStatistics& statistics) const {
    ensure(statistics.fisher && (statistics.guided || !refines_), "F and H for SqueezeLLM");
    CodebookSolver& solver = backend.codebooks();
    // What is reported is measured with F as it is, so the rows without any get theirs in a copy.
    Tensor fisher = backend.memory().allocate(DType::f32, task.weight.shape);
    backend.memory().copy(statistics.fisher->view(), fisher.view());
    std::optional<Tensor> energy;
    if (refines_) {
      energy = backend.memory().allocate(DType::f64, {task.weight.shape[1]});
      backend.statistics().gram_diagonal(statistics.guided->view(), energy->view());
    }
    const auto uninformed = solver.fill_uninformed_rows(
        fisher.view(), energy ? std::optional<ConstTensorView>(energy->view()) : std::nullopt);
    const CodebookSpec spec{task.grid.bits, table_dtype_};
    SolvedModule result;
    result.uninformed_rows = uninformed.from_energy + uninformed.from_ones;
    CodebookTensor clustered = cluster(backend, task, fisher.view(), spec);
    if (refines_) {
      clustered = solver.refine(task.weight, fisher.view(), statistics.guided->view(), clustered,
                                spec, {.damping = damping_});
    }
    result.tensor = std::move(clustered);
    return result;
  }

  CodebookTensor cluster(Backend& backend, const ModuleTask& task, ConstTensorView fisher,
                         const CodebookSpec& spec) const {
    CodebookSolver& solver = backend.codebooks();
    Tensor mask = backend.memory().allocate(DType::u8, task.weight.shape);
    solver.choose_outliers(task.weight, fisher, task.outliers.rule, mask.view());
    if (!task.outliers.joint) return solver.cluster(task.weight, fisher, mask.view(), spec);
    return solver.cluster_jointly(task.weight, fisher, mask.view(), *task.outliers.joint, spec);
  }

  bool refines_;
  double damping_;
  DType table_dtype_;
};

}  // namespace

std::unique_ptr<Quantizer> make_squeezellm(const QuantizeConfig& config) {
  return std::make_unique<SqueezeLlm>(config);
}

}  // namespace quern
