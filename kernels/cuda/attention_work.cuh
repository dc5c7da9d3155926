// Which block of an attention kernel does what: the list of entries that attention_plan.h
// describes, read on the device.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/dtype.h"

namespace facet::kernels::attention {

struct SplitRange {
  int32_t begin;
  int32_t end;
};

// Splits that hold what num_tokens queries from first_position on see.
FACET_ALWAYS_INLINE SplitRange SplitsOf(int32_t first_position,
                                        int32_t num_tokens,
                                        int32_t window) {
  const int32_t oldest = first_position - window + 1;
  return {.begin = window == 0 || oldest < 0 ? 0 : oldest / kSplitKeys,
          .end = (first_position + num_tokens - 1) / kSplitKeys + 1};
}

struct AttendParams {
  const Bf16* q;  // As PrepareQkv left it.
  int64_t q_width;
  Bf16* out;
  const DeviceAttentionRow* rows;
  const int32_t* blocks;
  const std::byte* kv;
  int64_t block_stride;
  int32_t num_kv_heads;
  int32_t group;
  int32_t window;
  bool side_by_side;
  float* partials;     // [items][Shape::kPartialFloats]
  uint32_t* counters;  // [slots], zeros between launches.
  const AttentionEntry* entries;
  int32_t num_entries;  // Without the end.
};

// The same for the launch of this part.
inline AttendParams ParamsOf(const AttentionPart& part, AttendParams params) {
  params.side_by_side = part.side_by_side;
  params.entries = part.entries;
  params.num_entries = part.num_entries;
  return params;
}

// What one block computes; equal in all its threads.
struct BlockWork {
  DeviceAttentionRow row;
  int32_t kv_head;
  int32_t first_column;
  int32_t num_columns;
  int32_t first_position;  // Of the first column's query.
  int32_t last_position;
  int32_t slot;
  int32_t first_partial;  // Of the first split it sees.
  SplitRange row_splits;
  SplitRange splits;  // Those that its columns see.
  int32_t split;      // The block's own, side by side.
};

template <typename Shape>
FACET_DEVICE BlockWork WorkAt(const AttendParams& params,
                              const AttentionEntry& entry,
                              int32_t slot) {
  BlockWork work;
  work.row = params.rows[entry.row];
  const auto first_position = static_cast<int32_t>(work.row.first_position);
  const int32_t num_columns = work.row.num_tokens * params.group;
  const int32_t num_groups = (num_columns + Shape::kColumns - 1) / Shape::kColumns;
  work.slot = entry.first_slot + slot;
  work.kv_head = slot / num_groups;
  // Later columns see more: they go first.
  work.first_column = (num_groups - 1 - slot % num_groups) * Shape::kColumns;
  const int32_t columns_left = num_columns - work.first_column;
  work.num_columns = columns_left < Shape::kColumns ? columns_left : Shape::kColumns;
  const int32_t first_token = work.first_column / params.group;
  const int32_t last_token = (work.first_column + work.num_columns - 1) / params.group;
  work.first_position = first_position + first_token;
  work.last_position = first_position + last_token;
  work.row_splits = SplitsOf(first_position, work.row.num_tokens, params.window);
  work.splits = SplitsOf(work.first_position, last_token - first_token + 1, params.window);
  work.first_partial = entry.first_item + slot * (work.row_splits.end - work.row_splits.begin) +
                       (work.splits.begin - work.row_splits.begin);
  return work;
}

// The last entry whose member is at most value.
FACET_DEVICE AttentionEntry FindEntry(const AttendParams& params,
                                      int32_t AttentionEntry::*member,
                                      int32_t value) {
  int32_t low = 0;
  int32_t high = params.num_entries;
  while (low < high) {
    const int32_t middle = (low + high + 1) / 2;
    if (params.entries[middle].*member <= value) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return params.entries[low];
}

// What block `item` of a launch computes; num_columns is 0 if that is nothing. Made by one thread
// and shared: in registers it would be in the way of what the block sums.
template <typename Shape>
FACET_DEVICE BlockWork WorkOfItem(const AttendParams& params, int32_t item) {
  const AttentionEntry entry = FindEntry(params, &AttentionEntry::first_item, item);
  if (entry.row < 0) return BlockWork{};
  int32_t slot = item - entry.first_item;
  int32_t split = 0;
  if (params.side_by_side) {
    const DeviceAttentionRow row = params.rows[entry.row];
    const SplitRange range =
        SplitsOf(static_cast<int32_t>(row.first_position), row.num_tokens, params.window);
    split = range.begin + slot % (range.end - range.begin);
    slot /= range.end - range.begin;
  }
  BlockWork work = WorkAt<Shape>(params, entry, slot);
  work.split = split;
  if (params.side_by_side && (split < work.splits.begin || split >= work.splits.end)) {
    work.num_columns = 0;
  }
  return work;
}

struct TileRange {
  int32_t begin;
  int32_t end;
};

// Tiles that hold what the block's queries see.
FACET_DEVICE TileRange TilesOf(const BlockWork& work, int32_t window) {
  const int32_t oldest = window == 0 ? 0 : work.first_position - window + 1;
  return {.begin = oldest < 0 ? 0 : oldest / kTileKeys, .end = work.last_position / kTileKeys + 1};
}

// Keys (or values) of one KV head in one block of the cache.
template <typename Shape>
inline constexpr int64_t kHeadBytes = int64_t{kBlockTokens} * Shape::kHeadDim * sizeof(Bf16);

// The keys that the block's queries are compared with; the values lie num_kv_heads heads further.
template <typename Shape>
FACET_DEVICE KeyRows KeysOf(const AttendParams& params, const BlockWork& work) {
  return {.base = params.kv + work.kv_head * kHeadBytes<Shape>,
          .block_stride = params.block_stride,
          .blocks = params.blocks + work.row.blocks_begin,
          .first_block = work.row.first_block,
          .end = static_cast<int32_t>(work.row.first_position) + work.row.num_tokens};
}

// What the query in a column of the block is called in q and out: its token and its head's place.
struct QueryPlace {
  int32_t token;
  int32_t head;
};

FACET_DEVICE QueryPlace PlaceOf(const AttendParams& params, const BlockWork& work, int32_t column) {
  const int32_t place = work.first_column + column;
  return {.token = work.row.first_token + place / params.group,
          .head = work.kv_head * params.group + place % params.group};
}

}  // namespace facet::kernels::attention
