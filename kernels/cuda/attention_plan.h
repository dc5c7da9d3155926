// How PagedAttention cuts a step's rows into blocks of threads (attention.cu): made together with
// the rows, so that what changes from step to step is data and not an argument of a launch.
#pragma once

#include <cstdint>

#include "kernels/attention.h"

namespace facet::kernels {

// The blocks of a row: first its groups of columns and KV heads (slots), then, side by side, the
// splits of the row.
struct AttentionEntry {
  int32_t row = -1;        // -1: the end; its other members are the numbers of items and slots.
  int32_t first_item = 0;  // blockIdx.x of its first block.
  int32_t first_slot = 0;  // The same if there were one split.
};

// The rows of one launch.
struct AttentionPart {
  const AttentionEntry* entries = nullptr;  // On the device: num_entries and the end.
  int32_t num_entries = 0;                  // 0: no launch.
  int32_t num_blocks = 0;                   // With those that find nothing to do.
  int32_t num_slots = 0;
  bool side_by_side = false;
  bool folds_apart = false;  // A row has more splits than its blocks fold.
  bool by_warpgroups = false;
};

struct AttentionPlan {
  AttentionShape shape;
  AttentionPart decode;
  AttentionPart prefill;
};

}  // namespace facet::kernels
