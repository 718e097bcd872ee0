#include "kernels/cpu/row_solver.h"

#include <cblas.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "kernels/core/error.h"
#include "kernels/core/float16.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/grid.h"

namespace quern {
namespace {

constexpr std::int64_t kBlock = 128;  // columns whose errors spread by one matrix product

/// Consecutive steps of one group inside a block.
struct Piece {
  ColumnGroup group;
  std::int64_t begin;
  std::int64_t end;
};

/// At most kBlock steps; whole groups, or a piece of a larger one.
struct Block {
  std::vector<Piece> pieces;
  const double* feedback = nullptr;  ///< S^T of the block, kBlock elements from row to row

  std::int64_t begin() const { return pieces.front().begin; }
  std::int64_t end() const { return pieces.back().end; }
};

std::vector<Block> cut_blocks(const std::vector<ColumnGroup>& groups) {
  std::vector<Block> blocks;
  for (const ColumnGroup& group : groups) {
    if (!blocks.empty() && group.end - blocks.back().begin() <= kBlock) {
      blocks.back().pieces.push_back({group, group.begin, group.end});
      continue;
    }
    for (std::int64_t begin = group.begin; begin < group.end; begin += kBlock) {
      blocks.push_back({{{group, begin, std::min(begin + kBlock, group.end)}}});
    }
  }
  return blocks;
}

/// Copies the blocks on the diagonal of S, transposed: a column of S is read once for each tile.
Tensor gather_feedback(Memory& memory, const RowProblem& problem, std::vector<Block>& blocks) {
  if (problem.feedback == nullptr) return {};
  const std::int64_t columns = problem.module.weight.shape[1];
  Tensor gathered = memory.allocate(DType::f64, {columns, kBlock});
  auto* out = gathered.view().as<double>();
  for (Block& block : blocks) {
    const double* in = problem.feedback + block.begin() * columns + block.begin();
    block.feedback = out + block.begin() * kBlock;
    const std::int64_t width = block.end() - block.begin();
    for (std::int64_t i = 0; i < width; ++i) {
      for (std::int64_t j = i; j < width; ++j) {
        out[(block.begin() + j) * kBlock + i] = in[i * columns + j];
      }
    }
  }
  return gathered;
}

/// Rounds the rows of one tile after another; one object per thread.
class TileSolver {
 public:
  TileSolver(const RowProblem& problem, const std::vector<Block>& blocks, QuantizedTensor& out,
             double* work)
      : problem_(problem),
        blocks_(blocks),
        columns_(problem.module.weight.shape[1]),
        codes_out_(out.codes.view().as<std::uint8_t>()),
        scales_out_(out.scales.view().as<std::uint16_t>()),
        zeros_out_(out.zeros.view().as<std::uint8_t>()),
        weights_(work),
        feedback_(weights_ + columns_ * kLanes),
        expected_(feedback_ + columns_ * kLanes),
        targets_(expected_ + columns_ * kLanes),
        drift_(targets_ + kBlock * kLanes),
        errors_(drift_ + kBlock * kLanes),
        grid_work_(reinterpret_cast<float*>(errors_ + kBlock * kLanes)) {}

  static std::int64_t work_bytes(std::int64_t columns, std::int64_t largest_group) {
    const std::int64_t doubles = (3 * columns + 3 * kBlock) * kLanes;
    return doubles * static_cast<std::int64_t>(sizeof(double)) +
           grid_work_floats(largest_group, kBlock) * static_cast<std::int64_t>(sizeof(float));
  }

  /// False if a scale of the tile is not finite.
  bool solve(std::int64_t first_row) {
    first_row_ = first_row;
    rows_ = std::min(kLanes, problem_.module.weight.shape[0] - first_row);
    load_weights();
    std::fill_n(feedback_, columns_ * kLanes, 0.0);
    for (const Block& block : blocks_) {
      for (const Piece& piece : block.pieces) {
        absorb_block(block, piece);
        if (piece.begin == piece.group.begin && !start_group(block, piece)) return false;
        round_piece(block, piece);
      }
      if (problem_.feedback == nullptr) continue;
      spread({block.begin(), block.end(), columns_}, errors_, feedback_ + block.end() * kLanes);
    }
    return true;
  }

 private:
  /// S_ij for the block's steps i, then those of the errors that they multiply.
  static const double* factors(const Block& block, std::int64_t i, std::int64_t j) {
    return block.feedback + (j - block.begin()) * kBlock + (i - block.begin());
  }
  double* errors(const Block& block, std::int64_t i) const {
    return errors_ + (i - block.begin()) * kLanes;
  }

  /// weights_[j] = column order[j] of the tile's rows; missing rows are zero.
  void load_weights() {
    constexpr std::int64_t kRows = 8;  // rows whose elements fill a cache line of weights_
    double* staging = expected_;
    std::fill_n(weights_, columns_ * kLanes, 0.0);
    for (std::int64_t begin = 0; begin < rows_; begin += kRows) {
      const std::int64_t count = std::min(kRows, rows_ - begin);
      const ConstTensorView rows = problem_.module.weight.rows(first_row_ + begin, count);
      convert_elems(rows, {reinterpret_cast<std::byte*>(staging), DType::f64, rows.shape}, 0,
                    rows.elems());
      for (std::int64_t j = 0; j < columns_; ++j) {
        const double* column = staging + problem_.order[static_cast<std::size_t>(j)];
        for (std::int64_t row = 0; row < count; ++row) {
          weights_[j * kLanes + begin + row] = column[row * columns_];
        }
      }
    }
  }

  /// Errors of the block's earlier groups, so that the group's targets are final up to its own.
  void absorb_block(const Block& block, const Piece& piece) {
    if (block.feedback == nullptr) return;
    for (std::int64_t j = piece.begin; j < piece.end; ++j) {
      add_feedback(factors(block, block.begin(), j), piece.begin - block.begin(), errors_,
                   feedback_ + j * kLanes);
    }
  }

  /// What the group's columns would be rounded at if none of them caused an error: the weights
  /// that the textbook form holds at this point.
  void expect_targets(const Block* block, const ColumnGroup& group) {
    for (std::int64_t begin = group.begin; begin < group.end; ++block) {
      const std::int64_t end = std::min(block->end(), group.end);
      for (std::int64_t j = begin; j < end; ++j) {
        double* expected = expected_ + (j - group.begin) * kLanes;
        add_feedback(factors(*block, begin, j), j - begin, drift_, expected);
        double* drift = drift_ + (j - begin) * kLanes;
        const double* weight = weights_ + j * kLanes;
        for (std::int64_t lane = 0; lane < kLanes; ++lane)
          drift[lane] = weight[lane] - expected[lane];
      }
      spread({begin, end, group.end}, drift_, expected_ + (end - group.begin) * kLanes);
      begin = end;
    }
  }

  bool start_group(const Block& block, const Piece& piece) {
    const ColumnGroup& group = piece.group;
    const std::int64_t count = (group.end - group.begin) * kLanes;
    const double* weights = weights_ + group.begin * kLanes;
    const double* feedback = feedback_ + group.begin * kLanes;
    for (std::int64_t i = 0; i < count; ++i) expected_[i] = weights[i] + feedback[i];
    LaneGroup lanes{
        expected_, targets_, weights, nullptr, kBlock, nullptr, group.end - group.begin};
    if (block.feedback != nullptr && piece.end == group.end) {
      std::copy_n(expected_, count, targets_);
      lanes.feedback = factors(block, group.begin, group.begin);
    }
    if (block.feedback != nullptr && group.begin > 0) expect_targets(&block, group);
    if (problem_.importance != nullptr) lanes.importance = problem_.importance + group.begin;
    grid_ = choose_grid(lanes, problem_.module.grid, grid_work_);
    for (std::int64_t row = 0; row < rows_; ++row) {
      const auto lane = static_cast<std::size_t>(row);
      if (!std::isfinite(grid_.scale[lane])) return false;
      const std::int64_t at = group.index * problem_.module.weight.shape[0] + first_row_ + row;
      scales_out_[at] = float_to_f16(static_cast<float>(grid_.scale[lane]));
      zeros_out_[at] = static_cast<std::uint8_t>(grid_.zero[lane]);
    }
    return true;
  }

  void round_piece(const Block& block, const Piece& piece) {
    alignas(64) std::array<double, kLanes> target;
    std::array<std::uint8_t, kLanes> codes;
    for (std::int64_t j = piece.begin; j < piece.end; ++j) {
      const double* weight = weights_ + j * kLanes;
      double* feedback = feedback_ + j * kLanes;
      if (block.feedback != nullptr) {
        add_feedback(factors(block, piece.begin, j), j - piece.begin, errors(block, piece.begin),
                     feedback);
      }
      for (std::size_t lane = 0; lane < target.size(); ++lane) {
        target[lane] = weight[lane] + feedback[lane];
      }
      round_column(target.data(), weight, grid_, errors(block, j), codes.data());
      std::uint8_t* out =
          codes_out_ + first_row_ * columns_ + problem_.order[static_cast<std::size_t>(j)];
      for (std::int64_t row = 0; row < rows_; ++row) {
        out[row * columns_] = codes[static_cast<std::size_t>(row)];
      }
    }
  }

  struct Steps {
    std::int64_t begin;
    std::int64_t end;
    std::int64_t limit;
  };

  /// out [end .. limit) += S[begin .. end, end .. limit)^T errors.
  void spread(const Steps& steps, const double* errors, double* out) const {
    if (steps.limit == steps.end) return;
    cblas_dgemm(
        CblasRowMajor, CblasTrans, CblasNoTrans, static_cast<blasint>(steps.limit - steps.end),
        static_cast<blasint>(kLanes), static_cast<blasint>(steps.end - steps.begin), 1.0,
        problem_.feedback + steps.begin * columns_ + steps.end, static_cast<blasint>(columns_),
        errors, static_cast<blasint>(kLanes), 1.0, out, static_cast<blasint>(kLanes));
  }

  const RowProblem& problem_;
  const std::vector<Block>& blocks_;
  std::int64_t columns_;
  std::uint8_t* codes_out_;
  std::uint16_t* scales_out_;
  std::uint8_t* zeros_out_;
  double* weights_;   // [columns, kLanes], solve order
  double* feedback_;  // likewise: what earlier errors add to the targets
  double* expected_;  // likewise, of one group; also staging space for rows
  double* targets_;   // [kBlock, kLanes]: of a group inside a block
  double* drift_;     // [kBlock, kLanes]: weight - expected
  double* errors_;    // [kBlock, kLanes]: weight - rounded value
  float* grid_work_;
  std::int64_t first_row_ = 0;
  std::int64_t rows_ = 0;
  LaneGrid<double> grid_;
};

void write_group_of(const RowProblem& problem, std::int32_t* group_of) {
  for (const ColumnGroup& group : problem.groups) {
    for (std::int64_t j = group.begin; j < group.end; ++j) {
      group_of[problem.order[static_cast<std::size_t>(j)]] = group.index;
    }
  }
}

}  // namespace

QuantizedTensor round_rows(Memory& memory, Scratch& scratch, const RowProblem& problem,
                           int threads) {
  const std::int64_t columns = problem.module.weight.shape[1];
  const auto groups = static_cast<std::int64_t>(problem.groups.size());
  QuantizedTensor out = allocate_result(memory, problem.module, groups);
  write_group_of(problem, out.group_of.view().as<std::int32_t>());
  std::vector<Block> blocks = cut_blocks(problem.groups);
  const Tensor feedback = gather_feedback(memory, problem, blocks);
  std::int64_t largest = 0;
  for (const ColumnGroup& group : problem.groups) {
    largest = std::max(largest, group.end - group.begin);
  }
  scratch.reserve(TileSolver::work_bytes(columns, largest));
  const std::int64_t first_tile = problem.module.rows.begin / kLanes;
  const std::int64_t tiles = (problem.module.rows.end + kLanes - 1) / kLanes;
  std::atomic<std::int64_t> first_bad = tiles;
#pragma omp parallel num_threads(threads)
  {
    TileSolver solver(problem, blocks, out, scratch.of_thread<double>(omp_get_thread_num()));
#pragma omp for schedule(dynamic)
    for (std::int64_t tile = first_tile; tile < tiles; ++tile) {
      if (solver.solve(tile * kLanes)) continue;
      std::int64_t seen = first_bad;
      while (tile < seen && !first_bad.compare_exchange_weak(seen, tile)) {
      }
    }
  }
  if (first_bad < tiles) {
    refuse_rows(problem.module, first_bad * kLanes, (first_bad + 1) * kLanes);
  }
  return out;
}

}  // namespace quern
