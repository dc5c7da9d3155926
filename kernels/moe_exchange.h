// What ranks that share the experts of a layer do around its products, so that every rank's tokens
// meet all of their experts (design.md 8):
//
//   tokens of this rank                             tokens of all ranks, for the experts here
//   NormRouterTopK → MoePack   → blocks travel →    MoeUnpack → MoeUp → MoeDown → MoeSliceSums
//   MoeCombineSlices           ← rows travel back ←──────────────────────────────────┘
//
// Rank r of num_ranks (1, 2, 4 or 8) holds the experts of slices [8r / num_ranks, 8(r + 1) /
// num_ranks): those from r * num_experts / num_ranks on. No host needs to read a count: buffers are
// as large as the capacity says, and rows without a meaning have ids of -1.
#pragma once

#include <cstdint>

#include "kernels/moe.h"
#include "kernels/rank_blocks.h"
#include "kernels/tensor_view.h"

namespace facet::kernels {

// A token as it travels:
//   row [ hidden elements | padding to 4 bytes | top_k ids, i32 | top_k weights, f32 |
//         padding to 64 bytes ]
struct MoeRowLayout {
  MoeRowLayout(DType dtype, int64_t hidden, int64_t top_k)
      : ids_offset(RoundUp(hidden * SizeOf(dtype), SizeOf(DType::kI32))),
        weights_offset(ids_offset + top_k * SizeOf(DType::kI32)),
        row_bytes(RoundUp(weights_offset + top_k * SizeOf(DType::kF32), BlockLayout::kAlignment)) {}

  // Blocks of such rows.
  BlockLayout Blocks(int64_t capacity) const {
    return {.capacity = capacity, .row_bytes = row_bytes};
  }

  int64_t ids_offset;
  int64_t weights_offset;
  int64_t row_bytes;
};

// How tokens reach the ranks of their experts: a block for each rank with its tokens alone, or one
// block with all tokens, the same for every rank.
enum class MoeDispatch { kAllToAll, kAllGather };

// Fills the blocks that are sent. All-to-all: block r holds, in their order, the tokens that chose
// an expert of rank r, each once. All-gather: the one block holds all tokens. places[t, r] is the
// row of token t in the block that rank r gets, or -1 if t chose none of its experts. Each choice
// adds one to expert_tokens. Bytes without a meaning stay as they were.
struct MoePackArgs {
  ConstTensorView expert_in;     // [num_tokens, hidden], f32 or bf16; num_tokens may be 0
  ConstTensorView topk_ids;      // [num_tokens, top_k], i32
  ConstTensorView topk_weights;  // [num_tokens, top_k], f32
  int num_experts = 0;           // Of the layer; a multiple of kExpertSlices.
  MoeDispatch form = MoeDispatch::kAllToAll;
  int64_t capacity = 0;              // Rows of a block, at least num_tokens.
  TensorView blocks;                 // [num_ranks or 1, block_bytes / 4], i32
  TensorView places;                 // [num_tokens, num_ranks], i32
  int64_t* expert_tokens = nullptr;  // [num_experts], running totals
};

// Received blocks as rows for MoeUp: row r * capacity + k is row k of the block from rank r. ids
// are of this rank's experts, from 0; -1 for experts of other ranks and in rows beyond a block's
// count. Where a row has no id, rows and weights stay as they were. A count that no block holds is
// taken for the nearest that one does.
struct MoeUnpackArgs {
  ConstTensorView blocks;    // [num_ranks, block_bytes / 4], i32
  int64_t capacity = 0;      // Rows of a block.
  int first_expert = 0;      // Of this rank.
  int num_experts_here = 0;  // Of this rank.
  TensorView rows;           // [num_ranks * capacity, hidden], f32 or bf16
  TensorView topk_ids;       // [num_ranks * capacity, top_k], i32
  TensorView topk_weights;   // [num_ranks * capacity, top_k], f32
};

// What this rank's experts add to each row, by slice:
//   sums[i, l] = round(sum over the row's experts of slice l, ascending id, of weight * out)
// float32 inside. A slice of which a row has no expert stays as it was. Rows come and go in the
// same order, so that sums are the blocks that are sent back: num_ranks of capacity * slices rows.
struct MoeSliceSumsArgs {
  ConstTensorView out;           // [num_rows, top_k, hidden], of MoeDown
  ConstTensorView topk_ids;      // [num_rows, top_k], i32, of this rank's experts; -1: none
  ConstTensorView topk_weights;  // [num_rows, top_k], f32
  int num_experts_here = 0;      // Of this rank; a multiple of its slices.
  TensorView sums;               // [num_rows, slices of this rank, hidden]
};

// The layer's end as of MoeCombine, from its slices on. Slice s of token t came from rank
// r = s * num_ranks / 8: row (r * capacity + places[t, r]) * slices + s % slices of sums, with
// slices = 8 / num_ranks. Read are the slices that topk_ids name. Bits are those of MoeCombine.
struct MoeCombineSlicesArgs {
  TensorView hidden;          // [num_tokens, hidden]; updated
  ConstTensorView sums;       // [num_ranks * capacity * slices, hidden], received
  ConstTensorView dense_out;  // [num_tokens, hidden]
  ConstTensorView topk_ids;   // [num_tokens, top_k], i32
  ConstTensorView places;     // [num_tokens, num_ranks], i32, of MoePack
  int num_experts = 0;
  int64_t capacity = 0;
  ConstTensorView post_norm_1;  // [hidden]
  ConstTensorView post_norm_2;  // [hidden]
  ConstTensorView post_norm;    // [hidden]
  float layer_scalar = 1;
  float eps = 0;
};

}  // namespace facet::kernels
