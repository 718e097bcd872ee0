#pragma once

#include <cstdint>

#include "kernels/cuda/context.h"
#include "kernels/cuda/grid.cuh"

namespace quern::gpu {

/// Consecutive steps of one group inside a block.
struct Piece {
  std::int64_t begin;
  std::int64_t end;
  std::int64_t group_begin;
  std::int64_t group_end;
  std::int64_t index;  ///< row of scales and zeros

  bool starts_group() const { return begin == group_begin; }
  bool ends_group() const { return end == group_end; }
};

/// At most 128 steps [begin, end): whole groups, or a piece of a larger one.
struct Block {
  std::int64_t begin;
  std::int64_t end;
  std::int64_t first_piece;
  std::int64_t pieces;
};

inline constexpr std::int64_t kBlockSteps = 128;
inline constexpr std::int64_t kErrorSteps = 512;  // whose errors wait for one product
inline constexpr std::int64_t kChunkRows = 64;    // of one product
inline constexpr int kMostMembers = 8;            // modules in a panel

/// Rows up to whole chunks: so many places they take in a panel.
__host__ __device__ constexpr std::int64_t whole_chunks(std::int64_t rows) {
  return (rows + kChunkRows - 1) / kChunkRows * kChunkRows;
}

/// Rows of a module that lie side by side in a panel. Pointers are the device's.
struct PanelMember {
  std::int64_t begin;        ///< first row in the panel, a multiple of kChunkRows
  std::int64_t end;          ///< zeros follow, up to the next multiple
  std::int64_t first_row;    ///< of the module
  std::int64_t module_rows;  ///< N
  grid::GridRule rule;
  std::uint8_t* codes;      ///< [N, K]
  std::uint16_t* scales;    ///< [G, N] f16
  std::uint8_t* zeros;      ///< [G, N]
  std::int64_t* first_bad;  ///< least row of the module whose scale is beyond float16
};

/// Rows of modules of one input on their way; all pointers are the device's.
struct RowPanel {
  std::int64_t rows;          ///< of all members, up to a multiple of kChunkRows
  std::int64_t columns;       ///< K
  double* weights;            ///< [rows, K] in solve order
  double* targets;            ///< [rows, K] weights plus what earlier errors add to them
  double* errors;             ///< [rows, stride kErrorSteps] weight - rounded value of a block
  double* expected;           ///< [rows, largest group] if a group is larger than a block
  const double* feedback;     ///< S [K, K] or none
  const double* importance;   ///< [K] or none
  const std::int32_t* order;  ///< [K]
  const Piece* pieces;        ///< all pieces
  int member_count;
  PanelMember members[kMostMembers];  ///< one after another
};

/// weights and targets = the member's rows of weight [N, K] in solve order.
void load_member(CudaContext& context, const RowPanel& panel, const PanelMember& member,
                 ConstTensorView weight);

/// Rounds the steps of one block in all rows, choosing the grids of the groups that lie in it.
void round_block(CudaContext& context, const RowPanel& panel, const Block& block);

/// expected = the targets of the group; then for each block, drift_block makes those inside the
/// block what they would be if none of its columns caused an error, and errors their drift.
void begin_expected(CudaContext& context, const RowPanel& panel, const Piece& group);
void drift_block(CudaContext& context, const RowPanel& panel, const Piece& group,
                 std::int64_t begin, std::int64_t end);

/// Chooses and writes the grid of a group larger than a block from `expected`.
void search_large_group(CudaContext& context, const RowPanel& panel, const Piece& group);

}  // namespace quern::gpu
