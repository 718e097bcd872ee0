#include <algorithm>
#include <limits>
#include <set>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/row_block.cuh"
#include "kernels/cuda/row_solver.h"

namespace quern::gpu {
namespace {

constexpr std::int64_t kPanelElems = 1 << 26;  // of the rows that are solved side by side
constexpr std::int64_t kRowsNamed = 64;        // rows that an error message speaks of together

struct Blocks {
  std::vector<Block> blocks;
  std::vector<Piece> pieces;
  std::int64_t largest_group = 0;
};

Blocks cut_blocks(const std::vector<ColumnGroup>& groups) {
  Blocks cut;
  for (const ColumnGroup& group : groups) {
    cut.largest_group = std::max(cut.largest_group, group.end - group.begin);
    const auto piece = [&](std::int64_t begin, std::int64_t end) {
      cut.pieces.push_back({begin, end, group.begin, group.end, group.index});
    };
    if (!cut.blocks.empty() && group.end - cut.blocks.back().begin <= kBlockSteps) {
      piece(group.begin, group.end);
      cut.blocks.back().end = group.end;
      ++cut.blocks.back().pieces;
      continue;
    }
    for (std::int64_t begin = group.begin; begin < group.end; begin += kBlockSteps) {
      const std::int64_t end = std::min(begin + kBlockSteps, group.end);
      cut.blocks.push_back({begin, end, static_cast<std::int64_t>(cut.pieces.size()), 1});
      piece(begin, end);
    }
  }
  return cut;
}

struct Steps {
  std::int64_t begin;
  std::int64_t end;
};

/// Adds what the errors of `steps` mean for steps [out.begin, out.end) to `to`, whose first column
/// is step out.begin.
void spread(CudaContext& context, const RowPanel& panel, const Steps& steps, const Steps& out,
            MatrixF64 to) {
  multiply_chunks_f64(context, {panel.rows, out.end - out.begin, steps.end - steps.begin, true},
                      kChunkRows, {panel.errors, kErrorSteps},
                      {panel.feedback + steps.begin * panel.columns + out.begin, panel.columns},
                      to);
}

/// The grid of a group larger than a block, before its first block is rounded.
void start_large_group(CudaContext& context, const RowPanel& panel, const Piece& group) {
  begin_expected(context, panel, group);
  const std::int64_t length = group.group_end - group.group_begin;
  const bool drifts = panel.feedback != nullptr && group.group_begin > 0;
  for (std::int64_t begin = group.group_begin; drifts && begin < group.group_end;) {
    const std::int64_t end = std::min(begin + kBlockSteps, group.group_end);
    drift_block(context, panel, group, begin, end);
    spread(context, panel, {begin, end}, {end, group.group_end},
           {panel.expected + (end - group.group_begin), length});
    begin = end;
  }
  search_large_group(context, panel, group);
}

/// Errors of a block are felt at once in the steps up to kErrorSteps from the first block that
/// waits; for those beyond, several blocks share a product. So targets are read and written less.
class PanelErrors {
 public:
  PanelErrors(CudaContext& context, const RowPanel& panel) : context_(context), panel_(panel) {}

  /// The panel with the place for the errors of a block that starts where the last one ended.
  RowPanel place_for(const Block& block) {
    if (block.end > limit_) flush();
    if (waiting_.begin == waiting_.end) {
      waiting_ = {block.begin, block.begin};
      limit_ = std::min(block.begin + kErrorSteps, panel_.columns);
    }
    RowPanel panel = panel_;
    panel.errors += block.begin - waiting_.begin;
    return panel;
  }

  void add(const Block& block, const RowPanel& panel) {
    spread_to(panel, {block.begin, block.end}, {block.end, limit_});
    waiting_.end = block.end;
  }

  /// Now all later targets hold all errors.
  void flush() {
    spread_to(panel_, waiting_, {limit_, panel_.columns});
    waiting_ = {};
    limit_ = 0;
  }

 private:
  void spread_to(const RowPanel& panel, const Steps& steps, const Steps& out) {
    if (panel.feedback == nullptr || steps.begin == steps.end) return;
    spread(context_, panel, steps, out, {panel.targets + out.begin, panel.columns});
  }

  CudaContext& context_;
  const RowPanel& panel_;
  Steps waiting_{};
  std::int64_t limit_ = 0;
};

void solve_panel(CudaContext& context, const RowPanel& panel, const Blocks& cut) {
  PanelErrors errors(context, panel);
  for (const Block& block : cut.blocks) {
    const Piece& first = cut.pieces[static_cast<std::size_t>(block.first_piece)];
    if (first.starts_group() && !first.ends_group()) {
      errors.flush();  // its grid is chosen from all its targets
      start_large_group(context, panel, first);
    }
    const RowPanel place = errors.place_for(block);
    round_block(context, place, block);
    errors.add(block, place);
  }
}

/// Fills panels with rows of modules that have the same blocks, and solves them.
class PanelSolver {
 public:
  /// rows: of all modules, each up to whole chunks. cut: outlives this object.
  PanelSolver(CudaContext& context, const RowProblem& problem, const Blocks& cut,
              const Piece* pieces, std::int64_t rows)
      : context_(context), cut_(cut) {
    panel_.columns = static_cast<std::int64_t>(problem.steps.size());
    panel_.feedback = problem.feedback;
    panel_.importance = problem.importance;
    panel_.order = problem.order;
    panel_.pieces = pieces;
    const std::int64_t chunks =
        std::max<std::int64_t>(1, kPanelElems / panel_.columns / kChunkRows);
    most_rows_ = std::min(chunks * kChunkRows, rows);
    panel_.weights = allocate(weights_, panel_.columns);
    panel_.targets = allocate(targets_, panel_.columns);
    panel_.errors = allocate(errors_, kErrorSteps);
    if (cut.largest_group > kBlockSteps) panel_.expected = allocate(expected_, cut.largest_group);
  }

  void add(const GridModule& module, QuantizedTensor& out, std::int64_t* first_bad) {
    for (RowRange left = module.rows; left.count() > 0;) {
      if (panel_.rows == most_rows_ || panel_.member_count == kMostMembers) solve();
      const std::int64_t rows = std::min(left.count(), most_rows_ - panel_.rows);
      PanelMember& member = panel_.members[panel_.member_count++];
      member = {.begin = panel_.rows,
                .end = panel_.rows + rows,
                .first_row = left.begin,
                .module_rows = module.weight.shape[0],
                .rule = grid::make_rule(module.grid),
                .codes = out.codes.view().as<std::uint8_t>(),
                .scales = out.scales.view().as<std::uint16_t>(),
                .zeros = out.zeros.view().as<std::uint8_t>(),
                .first_bad = first_bad};
      load_member(context_, panel_, member, module.weight);
      panel_.rows += whole_chunks(rows);
      left.begin += rows;
    }
  }

  /// Solves what was added.
  void solve() {
    if (panel_.rows > 0) solve_panel(context_, panel_, cut_);
    panel_.rows = 0;
    panel_.member_count = 0;
  }

 private:
  double* allocate(Tensor& tensor, std::int64_t columns) const {
    tensor = context_.memory.allocate(DType::f64, {most_rows_, columns});
    return tensor.view().as<double>();
  }

  CudaContext& context_;
  const Blocks& cut_;
  RowPanel panel_{};
  std::int64_t most_rows_;
  Tensor weights_;
  Tensor targets_;
  Tensor errors_;
  Tensor expected_;
};

/// group_of[order[j]] = index of the group of step j. One thread per step of a piece.
__global__ void group_kernel(const Piece* pieces, const std::int32_t* order,
                             std::int32_t* group_of) {
  const Piece piece = pieces[blockIdx.x];
  for (std::int64_t j = piece.begin + threadIdx.x; j < piece.end; j += blockDim.x) {
    group_of[order[j]] = static_cast<std::int32_t>(piece.index);
  }
}

/// The modules with one group size. first_bad [all modules of the problem].
void round_alike(CudaContext& context, const RowProblem& problem, std::int64_t group_size,
                 TensorView first_bad, std::span<QuantizedTensor> results) {
  const std::vector<ColumnGroup> groups =
      groups_in_order(problem.steps, problem.act_order, group_size);
  const Blocks cut = cut_blocks(groups);
  const auto piece_bytes = std::as_bytes(std::span(cut.pieces));
  Tensor pieces =
      context.memory.allocate(DType::u8, {static_cast<std::int64_t>(piece_bytes.size())});
  context.memory.upload(piece_bytes, pieces.view());
  const auto* piece_list = reinterpret_cast<const Piece*>(pieces.view().data);
  std::int64_t rows = 0;
  for (const GridModule& module : problem.modules) {
    if (module.grid.group_size == group_size) rows += whole_chunks(module.rows.count());
  }
  PanelSolver solver(context, problem, cut, piece_list, rows);
  for (std::size_t i = 0; i < results.size(); ++i) {
    const GridModule& module = problem.modules[i];
    if (module.grid.group_size != group_size) continue;
    QuantizedTensor& out = results[i];
    out = allocate_result(context.memory, module, static_cast<std::int64_t>(groups.size()));
    group_kernel<<<static_cast<unsigned>(cut.pieces.size()), kBlockSteps, 0, context.stream>>>(
        piece_list, problem.order, out.group_of.view().as<std::int32_t>());
    check_launch("quantize");
    solver.add(module, out, first_bad.as<std::int64_t>() + i);
  }
  solver.solve();
}

}  // namespace

std::vector<QuantizedTensor> round_rows(CudaContext& context, const RowProblem& problem) {
  Memory& memory = context.memory;
  const std::size_t count = problem.modules.size();
  std::vector<std::int64_t> first_bad(count, std::numeric_limits<std::int64_t>::max());
  Tensor bad = memory.allocate(DType::i64, {static_cast<std::int64_t>(count)});
  memory.upload(std::as_bytes(std::span(first_bad)), bad.view());
  std::set<std::int64_t> group_sizes;
  for (const GridModule& module : problem.modules) group_sizes.insert(module.grid.group_size);
  std::vector<QuantizedTensor> results(count);
  for (const std::int64_t group_size : group_sizes) {
    round_alike(context, problem, group_size, bad.view(), results);
  }
  memory.download(bad.view(), std::as_writable_bytes(std::span(first_bad)));
  memory.synchronize();
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t first = first_bad[i] / kRowsNamed * kRowsNamed;
    if (first < problem.modules[i].weight.shape[0]) {
      refuse_rows(problem.modules[i], first, first + kRowsNamed);
    }
  }
  return results;
}

}  // namespace quern::gpu
