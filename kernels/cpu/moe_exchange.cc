#include "kernels/moe_exchange.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/moe_sums.h"

namespace facet::kernels {
namespace {

// Fills places and counts the rows of each block; one pass, for the order of tokens is that of
// rows.
std::array<int32_t, kExpertSlices> PlanPlaces(const MoePackArgs& args) {
  const int64_t top_k = args.topk_ids.dim(1);
  const int64_t num_ranks = args.places.dim(1);
  const int64_t experts_per_rank = args.num_experts / num_ranks;
  const bool gather = args.form == MoeDispatch::kAllGather;
  std::array<int32_t, kExpertSlices> counts{};
  for (int64_t t = 0; t < args.expert_in.dim(0); ++t) {
    int32_t* places = args.places.as<int32_t>() + t * num_ranks;
    std::fill_n(places, num_ranks, -1);
    for (int64_t j = 0; j < top_k; ++j) {
      const int32_t id = args.topk_ids.as<int32_t>()[t * top_k + j];
      const int64_t rank = id / experts_per_rank;
      ++args.expert_tokens[id];
      if (places[rank] < 0) places[rank] = gather ? static_cast<int32_t>(t) : counts[rank]++;
    }
  }
  if (gather) counts[0] = static_cast<int32_t>(args.expert_in.dim(0));
  return counts;
}

}  // namespace

void CpuBackend::DoMoePack(const MoePackArgs& args) {
  const int64_t hidden = args.expert_in.dim(1);
  const int64_t top_k = args.topk_ids.dim(1);
  const int64_t num_ranks = args.places.dim(1);
  const int64_t num_blocks = args.blocks.dim(0);
  const bool gather = args.form == MoeDispatch::kAllGather;
  const MoeRowLayout layout(args.expert_in.dtype(), hidden, top_k);
  const BlockLayout block = layout.Blocks(args.capacity);
  const int64_t hidden_bytes = hidden * SizeOf(args.expert_in.dtype());
  auto* const blocks = static_cast<std::byte*>(args.blocks.raw());
  const auto* const hiddens = static_cast<const std::byte*>(args.expert_in.raw());

  const std::array<int32_t, kExpertSlices> counts = PlanPlaces(args);
  for (int64_t to = 0; to < num_blocks; ++to) {
    std::memcpy(blocks + to * block.block_bytes(), &counts[to], sizeof counts[to]);
  }
  pool_.For(args.expert_in.dim(0), [&](int64_t t, int) {
    for (int64_t to = 0; to < num_blocks; ++to) {
      const int64_t row = gather ? t : args.places.as<int32_t>()[t * num_ranks + to];
      if (row < 0) continue;
      std::byte* at = blocks + to * block.block_bytes() + block.RowOffset(row);
      std::memcpy(at, hiddens + t * hidden_bytes, static_cast<size_t>(hidden_bytes));
      std::memcpy(at + layout.ids_offset, args.topk_ids.as<int32_t>() + t * top_k,
                  top_k * sizeof(int32_t));
      std::memcpy(at + layout.weights_offset, args.topk_weights.as<float>() + t * top_k,
                  top_k * sizeof(float));
    }
  });
}

void CpuBackend::DoMoeUnpack(const MoeUnpackArgs& args) {
  const int64_t hidden = args.rows.dim(1);
  const int64_t top_k = args.topk_ids.dim(1);
  const MoeRowLayout layout(args.rows.dtype(), hidden, top_k);
  const BlockLayout block = layout.Blocks(args.capacity);
  const int64_t hidden_bytes = hidden * SizeOf(args.rows.dtype());
  const auto* const blocks = static_cast<const std::byte*>(args.blocks.raw());
  pool_.For(args.rows.dim(0), [&](int64_t row, int) {
    const std::byte* from = blocks + row / args.capacity * block.block_bytes();
    const int64_t k = row % args.capacity;
    int32_t count = 0;
    std::memcpy(&count, from, sizeof count);
    int32_t* ids = args.topk_ids.as<int32_t>() + row * top_k;
    std::fill_n(ids, top_k, -1);
    if (k >= count) return;
    const std::byte* at = from + block.RowOffset(k);
    bool any = false;
    for (int64_t j = 0; j < top_k; ++j) {
      int32_t id = 0;
      std::memcpy(&id, at + layout.ids_offset + j * SizeOf(DType::kI32), sizeof id);
      const int64_t local = static_cast<int64_t>(id) - args.first_expert;
      if (local < 0 || local >= args.num_experts_here) continue;
      ids[j] = static_cast<int32_t>(local);
      any = true;
    }
    if (!any) return;
    std::memcpy(static_cast<std::byte*>(args.rows.raw()) + row * hidden_bytes, at,
                static_cast<size_t>(hidden_bytes));
    std::memcpy(args.topk_weights.as<float>() + row * top_k, at + layout.weights_offset,
                top_k * sizeof(float));
  });
}

void CpuBackend::DoMoeSliceSums(const MoeSliceSumsArgs& args) {
  const int64_t top_k = args.out.dim(1);
  const int64_t hidden = args.out.dim(2);
  const int64_t num_slices = args.sums.dim(1);
  const int64_t experts_per_slice = args.num_experts_here / num_slices;
  WithElement(args.out.dtype(), [&]<typename T>() {
    pool_.For(args.out.dim(0), [&](int64_t row, int thread) {
      ForSliceSums(
          args.out.as<T>() + row * top_k * hidden, args.topk_ids.as<int32_t>() + row * top_k,
          args.topk_weights.as<float>() + row * top_k, top_k, hidden,
          scratch_.Floats(thread, hidden), [&](int32_t id) { return id / experts_per_slice; },
          [&](int64_t slice, const float* sum) {
            Narrow(sum, hidden, args.sums.as<T>() + (row * num_slices + slice) * hidden);
          });
    });
  });
}

void CpuBackend::DoMoeCombineSlices(const MoeCombineSlicesArgs& args) {
  const int64_t hidden = args.hidden.dim(1);
  const int64_t top_k = args.topk_ids.dim(1);
  const int64_t num_ranks = args.places.dim(1);
  const int64_t slices_per_rank = kExpertSlices / num_ranks;
  WithElement(args.hidden.dtype(), [&]<typename T>() {
    pool_.For(args.hidden.dim(0), [&](int64_t t, int thread) {
      float* total = scratch_.Floats(thread, 2 * hidden);
      std::array<bool, kExpertSlices> named{};
      for (int64_t j = 0; j < top_k; ++j) {
        named[SliceOf(args.topk_ids.as<int32_t>()[t * top_k + j], args.num_experts)] = true;
      }
      std::fill_n(total, hidden, 0.0F);
      for (int64_t slice = 0; slice < kExpertSlices; ++slice) {
        if (!named[slice]) continue;
        const int64_t rank = slice / slices_per_rank;
        const int64_t place = args.places.as<int32_t>()[t * num_ranks + rank];
        const T* sum =
            args.sums.as<T>() +
            ((rank * args.capacity + place) * slices_per_rank + slice % slices_per_rank) * hidden;
        for (int64_t i = 0; i < hidden; ++i) total[i] += ToFloat(sum[i]);
      }
      EndMoeLayer<T>(primitives_, args, t, total, total + hidden);
    });
  });
}

}  // namespace facet::kernels
