#include "pipeline/stages/quantize.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <bit>
#include <filesystem>
#include <utility>

#include "kernels/core/error.h"
#include "kernels/core/fingerprint.h"
#include "pipeline/hessian_factors.h"
#include "workers/agreement.h"

namespace quern {
namespace {

/// Announces the arrays that a solver's result is stored as. They stay in `from`.
void land_values(Landing& landing, const QuantizedTensor& from, QuantizedModule& to) {
  auto& grid = to.values.emplace<UniformGrid>();
  landing.add(from.scales.view(), grid.scales);
  landing.add(from.zeros.view(), grid.zeros);
  landing.add(from.group_of.view(), grid.group_of);
}

void land_values(Landing& landing, const CodebookTensor& from, QuantizedModule& to) {
  auto& codebook = to.values.emplace<Codebook>();
  landing.add(from.table.view(), codebook.table);
  landing.add(from.rows.view(), codebook.rows);
  landing.add(from.cols.view(), codebook.cols);
  landing.add(from.vals.view(), codebook.vals);
  to.outliers = from.vals.shape().elems();
}

/// The rows of a module that fall to `rank` of `ranks`: as many slices to each, the first ranks one
/// more.
RowRange row_share(std::int64_t rows, int rank, int ranks) {
  const std::int64_t slice = Solver::row_slice(rows);
  const std::int64_t slices = (rows + slice - 1) / slice;
  const auto begin = [&](int of) {
    return std::min(rows, (slices * of + ranks - 1) / ranks * slice);
  };
  return {begin(rank), begin(rank + 1)};
}

/// F of a module [N, K]; null where it was not measured.
const Tensor* fisher_of(const BundleStatistics& statistics, const std::string& module) {
  const auto measured = statistics.modules.find(module);
  const bool found = measured != statistics.modules.end() && measured->second.fisher;
  return found ? &*measured->second.fisher : nullptr;
}

void dequantize(Backend& backend, const QuantizedTensor& tensor, TensorView out) {
  backend.solver().dequantize(tensor, out);
}

void dequantize(Backend& backend, const CodebookTensor& tensor, TensorView out) {
  backend.codebooks().dequantize(tensor, out);
}

}  // namespace

void keep_statistics(RunContext& context, StatisticsStore& store,
                     std::span<const BundleTask> measured) {
  const auto lap = context.watch.lap("keep statistics");
  std::vector<JournalEntry> written;
  run_agreed(context.session, [&] {
    for (const BundleTask& task : measured) {
      if (task.owner != context.session.rank()) continue;
      context.session.enter("keep statistics of " + task.bundle->name);
      for (JournalEntry& entry : store.write(*task.bundle, *task.statistics)) {
        written.push_back(std::move(entry));
      }
    }
  });
  store.acknowledge(written);
}

QuantizeBundles::QuantizeBundles(RunContext& context, const Allocation& allocation)
    : context_(context),
      allocation_(allocation),
      quantizer_(make_quantizer(context.config.quantize)),
      landing_buffers_(context.session.backend->memory()),
      writer_(context),
      installs_(quantizer_->needed().gram && !quantizer_->needed().backward() &&
                context.config.quantize.propagation == Propagation::quantized) {}

/// [N, K] f32 of ones, for methods without statistics.
ConstTensorView QuantizeBundles::ones(const Shape& shape) {
  if (ones_.shape().elems() < shape.elems()) {
    HostTensor host(DType::f32, {shape.elems()});
    std::ranges::fill(host.as<float>(), 1.0F);
    ones_ = context_.session.backend->memory().to_device(host);
  }
  return ones_.view().rows(0, shape.elems()).reshaped(shape);
}

/// The sum of errors [N, 2] is the weighted squared error of this rank's rows of a module, and that
/// of the weights themselves. Asynchronous.
void QuantizeBundles::measure_errors(const ModuleTask& task, const SolvedModule& solved,
                                     BundleStatistics& statistics, TensorView errors) {
  Backend& backend = *context_.session.backend;
  Tensor dequantized = backend.memory().allocate(DType::f32, task.weight.shape);
  std::visit([&](const auto& tensor) { dequantize(backend, tensor, dequantized.view()); },
             solved.tensor);
  const Tensor* fisher = fisher_of(statistics, task.name);
  if (statistics.gram && fisher == nullptr) {
    const std::int64_t begin = task.rows.begin;
    const std::int64_t rows = std::min(task.rows.end, task.weight.shape[0]) - begin;
    if (rows == 0) return;
    backend.solver().quadratic_error(task.weight.rows(begin, rows),
                                     dequantized.view().rows(begin, rows), statistics.gram->view(),
                                     errors.rows(begin, rows));
    return;
  }
  backend.codebooks().weighted_error(task.weight, dequantized.view(),
                                     fisher != nullptr ? fisher->view() : ones(task.weight.shape),
                                     errors.rows(0, 1).reshaped({2}));
}

/// Packs and dequantizes a module; asynchronous. Returns the packed words.
Tensor QuantizeBundles::finish(const ModuleTask& task, const SolvedModule& solved,
                               TensorView fingerprint) {
  Backend& backend = *context_.session.backend;
  Memory& memory = backend.memory();
  const std::int64_t rows = task.weight.shape[0];
  const std::int64_t columns = task.weight.shape[1];
  Tensor words = memory.allocate(DType::i32, {(columns * task.grid.bits + 31) / 32, rows});
  Tensor dequantized = memory.allocate(DType::f32, task.weight.shape);
  std::visit(
      [&](const auto& tensor) {
        backend.solver().pack(tensor.codes.view(), task.grid.bits, words.view());
        dequantize(backend, tensor, dequantized.view());
      },
      solved.tensor);
  backend.layers().fingerprint(dequantized.view(), fingerprint);
  if (installs_) {
    Tensor weight = memory.allocate(backend.activation_dtype(), task.weight.shape);
    backend.layers().convert(dequantized.view(), weight.view());
    solved_[task.name] = std::move(weight);
  }
  return words;
}

/// All that is known of a module but its arrays and what the device measured.
QuantizedModule QuantizeBundles::describe(const LinearModule& module, const ModuleTask& task,
                                          const SolvedModule& solved) const {
  QuantizedModule result;
  result.name = module.name;
  result.out_features = module.out_features;
  result.in_features = module.in_features;
  result.bits = task.grid.bits;
  const bool codebook = std::holds_alternative<CodebookTensor>(solved.tensor);
  result.group_size = codebook ? -1 : task.grid.group_size;
  result.symmetric = task.grid.symmetric;
  if (context_.config.quantize.codebook_type == CodebookType::float16) {
    result.table_dtype = DType::f16;
  }
  result.metrics.damping_fraction = solved.damping_fraction;
  result.metrics.dead_columns = solved.dead_columns;
  result.metrics.uninformed_rows = solved.uninformed_rows;
  return result;
}

/// What this rank solves: the bundles that it owns, and its rows of those that all share.
std::vector<QuantizeBundles::SolvedBundle> QuantizeBundles::own_share(
    std::span<const BundleTask> tasks, const LayerWeights& weights) const {
  std::vector<SolvedBundle> bundles;
  for (const BundleTask& task : tasks) {
    if (!task.shared && task.owner != context_.session.rank()) continue;
    SolvedBundle& bundle = bundles.emplace_back(SolvedBundle{&task, {}, {}, {}});
    for (const PlannedModule& planned : task.bundle->modules) {
      bundle.modules.push_back(make_task(planned, weights.weight(planned.module.role),
                                         context_.config.quantize, allocation_));
      if (!task.shared) continue;
      bundle.modules.back().rows =
          row_share(planned.module.out_features, context_.session.rank(), context_.session.ranks());
    }
  }
  return bundles;
}

void QuantizeBundles::solve_rows(std::span<SolvedBundle> bundles) {
  Backend& backend = *context_.session.backend;
  const auto input_of = [](const SolvedBundle& bundle) {
    return InputTask{bundle.modules, *bundle.task->statistics};
  };
  std::vector<std::vector<HessianTask>> wanted;
  for (const SolvedBundle& bundle : bundles) {
    wanted.push_back(quantizer_->factors_wanted(input_of(bundle)));
  }
  HessianFactors factors(backend.solver(), wanted);
  for (SolvedBundle& bundle : bundles) {
    const std::string& name = bundle.task->bundle->name;
    context_.session.enter(fmt::format("solve {}", name));
    const Trace::Span span(context_.session.trace.get(), name);
    bundle.solved = quantizer_->solve(backend, input_of(bundle), factors.next());
    measure_errors(bundle);
  }
}

void QuantizeBundles::measure_errors(SolvedBundle& bundle) {
  Memory& memory = context_.session.backend->memory();
  std::int64_t rows = 0;
  for (const ModuleTask& task : bundle.modules) rows += task.weight.shape[0];
  bundle.errors = memory.allocate(DType::f64, {rows, 2});
  memory.clear(bundle.errors.view());
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < bundle.modules.size(); ++i) {
    const ModuleTask& task = bundle.modules[i];
    measure_errors(task, bundle.solved[i], *bundle.task->statistics,
                   bundle.errors.view().rows(begin, task.weight.shape[0]));
    begin += task.weight.shape[0];
  }
}

/// Collective. The rows that other ranks solved, to the owner. Where one rank has a value the
/// others have zeros: the sum of the bytes, taken as integers, is all of them.
void QuantizeBundles::join_rows(SolvedBundle& bundle) {
  Memory& memory = context_.session.backend->memory();
  context_.session.enter(fmt::format("gather {}", bundle.task->bundle->name));
  const auto words_of = [](const TensorView& part) { return (part.bytes() + 7) / 8; };
  std::vector<TensorView> parts{bundle.errors.view()};
  for (SolvedModule& module : bundle.solved) {
    auto& tensor = std::get<QuantizedTensor>(module.tensor);
    for (Tensor* part : {&tensor.codes, &tensor.scales, &tensor.zeros}) {
      parts.push_back(part->view());
    }
  }
  std::size_t words = 0;
  for (const TensorView& part : parts) words += words_of(part);
  Tensor joined = memory.allocate(DType::i64, {static_cast<std::int64_t>(words)});
  memory.clear(joined.view());
  const auto for_each_place = [&](const auto& call) {
    std::byte* place = joined.view().data;
    for (const TensorView& part : parts) {
      call(part, TensorView{place, part.dtype, part.shape});
      place += 8 * words_of(part);
    }
  };
  for_each_place([&](TensorView part, TensorView place) { memory.copy(part, place); });
  context_.session.communicator->reduce_sum(joined.view(), bundle.task->owner);
  for_each_place([&](TensorView part, TensorView place) { memory.copy(place, part); });
}

/// Packs what was solved, and starts it on its way to the host.
LandedModules QuantizeBundles::land(const SolvedBundle& bundle) {
  Memory& memory = context_.session.backend->memory();
  const Trace::Span span(context_.session.trace.get(), "land {}", bundle.task->bundle->name);
  const auto& [task, modules, solved, errors] = bundle;
  Tensor fingerprints = memory.allocate(DType::i64, {static_cast<std::int64_t>(solved.size())});
  std::vector<Tensor> words;
  LandedModules result{std::vector<QuantizedModule>(solved.size()), Landing(landing_buffers_)};
  for (std::size_t i = 0; i < solved.size(); ++i) {
    const auto row = static_cast<std::int64_t>(i);
    words.push_back(finish(modules[i], solved[i], fingerprints.view().rows(row, 1)));
    QuantizedModule& module = result.modules[i];
    module = describe(task->bundle->modules[i].module, modules[i], solved[i]);
    result.landing.add(words.back().view(), module.words);
    std::visit([&](const auto& tensor) { land_values(result.landing, tensor, module); },
               solved[i].tensor);
  }
  result.landing.start(memory);
  read_measured(memory.to_host(errors.view()), memory.to_host(fingerprints.view()),
                *task->statistics, result.modules);
  return result;
}

/// errors [rows of all modules, 2] f64, fingerprints [modules] i64.
void QuantizeBundles::read_measured(const HostTensor& errors, const HostTensor& fingerprints,
                                    const BundleStatistics& statistics,
                                    std::span<QuantizedModule> modules) {
  const double* of_row = errors.as<double>().data();
  for (std::size_t i = 0; i < modules.size(); ++i) {
    const std::string& name = modules[i].name;
    ModuleMetrics& metrics = modules[i].metrics;
    double error = 0.0;
    double energy = 0.0;
    for (std::int64_t row = 0; row < modules[i].out_features; ++row, of_row += 2) {
      error += of_row[0];
      energy += of_row[1];
    }
    metrics.relative_error = energy > 0.0 ? error / energy : 0.0;
    if (fisher_of(statistics, name) != nullptr) metrics.objective = error;
    metrics.dequantized_hash =
        fingerprint_text(std::bit_cast<std::uint64_t>(fingerprints.as<std::int64_t>()[i]));
    context_.session.log->debug("{}: relative error {:.3e}", name, metrics.relative_error);
    const double asked = context_.config.quantize.damping;
    if (metrics.damping_fraction > asked) {
      context_.session.log->warn("{}: H is not positive definite; damping grew from {} to {}", name,
                                 asked, metrics.damping_fraction);
    }
  }
}

void QuantizeBundles::solve(std::span<const BundleTask> tasks, const LayerWeights& weights) {
  solved_.clear();
  std::vector<SolvedBundle> bundles;
  std::vector<std::pair<const BundleUnit*, LandedModules>> results;
  {
    const auto lap = context_.watch.lap("solve");
    run_agreed(context_.session, [&] {
      bundles = own_share(tasks, weights);
      solve_rows(bundles);
    });
    for (SolvedBundle& bundle : bundles) {
      if (bundle.task->shared) join_rows(bundle);
    }
    run_agreed(context_.session, [&] {
      for (SolvedBundle& bundle : bundles) {
        if (bundle.task->owner != context_.session.rank()) continue;
        results.emplace_back(bundle.task->bundle, land(bundle));
      }
      bundles.clear();
    });
  }
  const auto folder = std::filesystem::path(tasks.front().bundle->name).parent_path().string();
  writer_.begin(folder);
  run_agreed(context_.session, [&] {
    for (auto& [bundle, modules] : results) writer_.write(*bundle, std::move(modules));
  });
}

/// The weights of a bundle's modules in the activation type, on its owner.
std::vector<Tensor> QuantizeBundles::dequantized(const BundleUnit& bundle) {
  Memory& memory = context_.session.backend->memory();
  std::vector<Tensor> weights;
  if (solved_.contains(bundle.modules.front().module.name)) {
    for (const PlannedModule& planned : bundle.modules) {
      weights.push_back(std::move(solved_.extract(planned.module.name).mapped()));
    }
    return weights;
  }
  auto stored = context_.store.read(bundle.name);
  if (!stored) {
    throw StoreError(fmt::format(
        "{}: the committed bundle cannot be read back; check the file system, then run again",
        bundle.name));
  }
  for (const QuantizedModule& module : from_bundle(std::move(*stored))) {
    const Tensor single = memory.to_device(dequantize_on_host(module));
    weights.push_back(
        memory.allocate(context_.session.backend->activation_dtype(), single.shape()));
    context_.session.backend->layers().convert(single.view(), weights.back().view());
  }
  return weights;
}

void QuantizeBundles::install(const BundleUnit& bundle, int owner, LayerWeights& weights) {
  Session& session = context_.session;
  std::vector<Tensor> own;
  run_agreed(session, [&] {
    if (owner == session.rank()) own = dequantized(bundle);
  });
  for (std::size_t i = 0; i < bundle.modules.size(); ++i) {
    const LinearModule& module = bundle.modules[i].module;
    Tensor weight = owner == session.rank() ? std::move(own[i])
                                            : session.backend->memory().allocate(
                                                  session.backend->activation_dtype(),
                                                  {module.out_features, module.in_features});
    session.communicator->broadcast(weight.view(), owner);
    weights.set(module.role, Part::weight, std::move(weight));
  }
}

}  // namespace quern
