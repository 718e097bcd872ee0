#include <algorithm>
#include <limits>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/row_block.h"
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
/// is step out.begin. How a product rounds may depend on its extents, so those do not depend on how
/// many rows there are in the panel.
void spread(CudaContext& context, const RowPanel& panel, const Steps& steps, const Steps& out,
            MatrixF64 to) {
  for (std::int64_t row = 0; row < panel.rows; row += panel.product_rows) {
    const std::int64_t rows = std::min(panel.product_rows, panel.rows - row);
    multiply_f64(context, {rows, out.end - out.begin, steps.end - steps.begin, true},
                 {panel.errors + row * kErrorSteps, kErrorSteps},
                 {panel.feedback + steps.begin * panel.columns + out.begin, panel.columns},
                 {to.data + row * to.stride, to.stride});
  }
}

/// The grid of a group larger than a block, before its first block is rounded.
void start_large_group(CudaContext& context, const RowPanel& panel, const Piece& group,
                       const GridSpec& grid) {
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
  search_large_group(context, panel, group, grid);
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

void solve_panel(CudaContext& context, const RowPanel& panel, const Blocks& cut,
                 const GridSpec& grid) {
  PanelErrors errors(context, panel);
  for (const Block& block : cut.blocks) {
    const Piece& first = cut.pieces[static_cast<std::size_t>(block.first_piece)];
    if (first.starts_group() && !first.ends_group()) {
      errors.flush();  // its grid is chosen from all its targets
      start_large_group(context, panel, first, grid);
    }
    const RowPanel place = errors.place_for(block);
    round_block(context, place, block, grid);
    errors.add(block, place);
  }
}

/// The next panel of a module's rows: whole slices where one fits, else pieces of one.
RowRange next_panel(const RowRange& left, std::int64_t slice, std::int64_t most_rows) {
  const std::int64_t room = slice <= most_rows ? most_rows / slice * slice
                                               : std::min(most_rows, slice - left.begin % slice);
  return {left.begin, std::min(left.begin + room, left.end)};
}

/// Panels of a module's rows, one after another, with working space of their own.
class PanelSolver {
 public:
  PanelSolver(CudaContext& context, ConstTensorView weight, std::int64_t most_rows,
              std::int64_t largest_group)
      : context_(context), weight_(weight) {
    const std::int64_t columns = weight.shape[1];
    Memory& memory = context.memory;
    weights_ = memory.allocate(DType::f64, {most_rows, columns});
    targets_ = memory.allocate(DType::f64, {most_rows, columns});
    errors_ = memory.allocate(DType::f64, {most_rows, kErrorSteps});
    if (largest_group > kBlockSteps) {
      expected_ = memory.allocate(DType::f64, {most_rows, largest_group});
    }
  }

  void solve(RowPanel panel, const Blocks& cut, const GridSpec& grid) {
    auto* weights = weights_.view().as<double>();
    panel.weights = weights;
    panel.targets = targets_.view().as<double>();
    panel.errors = errors_.view().as<double>();
    panel.expected = expected_.view().as<double>();
    load_panel(context_, panel, weight_, weights);
    solve_panel(context_, panel, cut, grid);
  }

 private:
  CudaContext& context_;
  ConstTensorView weight_;
  Tensor weights_;
  Tensor targets_;
  Tensor errors_;
  Tensor expected_;
};

/// What the panels of a problem have in common.
RowPanel panel_of(const RowProblem& problem, QuantizedTensor& out, const Piece* pieces,
                  TensorView first_bad) {
  RowPanel panel{};
  panel.columns = problem.weight.shape[1];
  panel.module_rows = problem.weight.shape[0];
  panel.feedback = problem.feedback;
  panel.importance = problem.importance;
  panel.order = problem.order;
  panel.pieces = pieces;
  panel.codes = out.codes.view().as<std::uint8_t>();
  panel.scales = out.scales.view().as<std::uint16_t>();
  panel.zeros = out.zeros.view().as<std::uint8_t>();
  panel.first_bad = first_bad.as<std::int64_t>();
  return panel;
}

void solve_rows(CudaContext& context, const RowProblem& problem, const Blocks& cut,
                RowPanel panel) {
  const std::int64_t slice = Solver::row_slice(panel.module_rows);
  const std::int64_t most_rows = std::max<std::int64_t>(1, kPanelElems / panel.columns);
  panel.product_rows = std::min(slice, most_rows);
  PanelSolver solver(context, problem.weight, std::min(most_rows, problem.rows.count()),
                     cut.largest_group);
  for (RowRange left = problem.rows; left.count() > 0;) {
    const RowRange next = next_panel(left, slice, most_rows);
    panel.rows = next.count();
    panel.first_row = next.begin;
    solver.solve(panel, cut, problem.grid);
    left.begin = next.end;
  }
}

/// group_of[order[j]] = index of the group of step j. One thread per step of a piece.
__global__ void group_kernel(const Piece* pieces, const std::int32_t* order,
                             std::int32_t* group_of) {
  const Piece piece = pieces[blockIdx.x];
  for (std::int64_t j = piece.begin + threadIdx.x; j < piece.end; j += blockDim.x) {
    group_of[order[j]] = static_cast<std::int32_t>(piece.index);
  }
}

}  // namespace

QuantizedTensor round_rows(CudaContext& context, const RowProblem& problem) {
  Memory& memory = context.memory;
  const std::int64_t rows = problem.weight.shape[0];
  const std::int64_t columns = problem.weight.shape[1];
  const auto groups = static_cast<std::int64_t>(problem.groups.size());
  QuantizedTensor out = allocate_result(memory, problem.weight.shape, groups, problem.rows);
  const Blocks cut = cut_blocks(problem.groups);
  const auto piece_bytes = std::as_bytes(std::span(cut.pieces));
  Tensor pieces = memory.allocate(DType::u8, {static_cast<std::int64_t>(piece_bytes.size())});
  memory.upload(piece_bytes, pieces.view());
  std::vector<std::int64_t> first_bad{std::numeric_limits<std::int64_t>::max()};
  Tensor bad = memory.allocate(DType::i64, {1});
  memory.upload(std::as_bytes(std::span(first_bad)), bad.view());
  const auto* piece_list = reinterpret_cast<const Piece*>(pieces.view().data);
  group_kernel<<<static_cast<unsigned>(cut.pieces.size()), kBlockSteps, 0, context.stream>>>(
      piece_list, problem.order, out.group_of.view().as<std::int32_t>());
  check_launch("quantize");

  solve_rows(context, problem, cut, panel_of(problem, out, piece_list, bad.view()));
  memory.download(bad.view(), std::as_writable_bytes(std::span(first_bad)));
  memory.synchronize();
  if (first_bad[0] < rows) {
    const std::int64_t first = first_bad[0] / kRowsNamed * kRowsNamed;
    refuse_rows(first, std::min(rows, first + kRowsNamed));
  }
  return out;
}

}  // namespace quern::gpu
