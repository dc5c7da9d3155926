#include "kernels/moe_exchange.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/reference/moe_sums.h"
#include "kernels/reference/reference_backend.h"

namespace facet::kernels {

using namespace reference;  // NOLINT(google-build-using-namespace): the words of this folder.

void ReferenceBackend::DoMoePack(const MoePackArgs& args) {
  const int64_t num_tokens = args.expert_in.dim(0);
  const int64_t hidden = args.expert_in.dim(1);
  const int64_t top_k = args.topk_ids.dim(1);
  const int64_t num_ranks = args.places.dim(1);
  const int64_t experts_per_rank = args.num_experts / num_ranks;
  const bool gather = args.form == MoeDispatch::kAllGather;
  const MoeRowLayout layout(args.expert_in.dtype(), hidden, top_k);
  const BlockLayout block = layout.Blocks(args.capacity);
  const int64_t hidden_bytes = hidden * SizeOf(args.expert_in.dtype());
  auto* const blocks = static_cast<std::byte*>(args.blocks.raw());
  const auto* const hiddens = static_cast<const std::byte*>(args.expert_in.raw());

  std::vector<int32_t> counts(args.blocks.dim(0));
  for (int64_t t = 0; t < num_tokens; ++t) {
    const int32_t* ids = args.topk_ids.as<int32_t>() + t * top_k;
    const float* weights = args.topk_weights.as<float>() + t * top_k;
    const auto put = [&](int64_t to, int64_t row) {
      std::byte* at = blocks + to * block.block_bytes() + block.RowOffset(row);
      std::memcpy(at, hiddens + t * hidden_bytes, hidden_bytes);
      std::memcpy(at + layout.ids_offset, ids, top_k * sizeof *ids);
      std::memcpy(at + layout.weights_offset, weights, top_k * sizeof *weights);
    };
    for (int64_t j = 0; j < top_k; ++j) ++args.expert_tokens[ids[j]];
    for (int64_t rank = 0; rank < num_ranks; ++rank) {
      int32_t& place = args.places.as<int32_t>()[t * num_ranks + rank];
      const bool concerned =
          std::any_of(ids, ids + top_k, [&](int32_t id) { return id / experts_per_rank == rank; });
      place = !concerned ? -1 : gather ? static_cast<int32_t>(t) : counts[rank]++;
      if (concerned && !gather) put(rank, place);
    }
    if (gather) put(0, counts[0]++);
  }
  for (size_t to = 0; to < counts.size(); ++to) {
    std::memcpy(blocks + static_cast<int64_t>(to) * block.block_bytes(), &counts[to],
                sizeof counts[to]);
  }
}

void ReferenceBackend::DoMoeUnpack(const MoeUnpackArgs& args) {
  const int64_t hidden = args.rows.dim(1);
  const int64_t top_k = args.topk_ids.dim(1);
  const MoeRowLayout layout(args.rows.dtype(), hidden, top_k);
  const BlockLayout block = layout.Blocks(args.capacity);
  const int64_t hidden_bytes = hidden * SizeOf(args.rows.dtype());
  for (int64_t rank = 0; rank < args.blocks.dim(0); ++rank) {
    const auto* from =
        static_cast<const std::byte*>(args.blocks.raw()) + rank * block.block_bytes();
    int32_t count = 0;
    std::memcpy(&count, from, sizeof count);
    for (int64_t k = 0; k < args.capacity; ++k) {
      const int64_t row = rank * args.capacity + k;
      const std::byte* at = from + block.RowOffset(k);
      std::vector<int32_t> ids(top_k, -1);
      if (k < count) std::memcpy(ids.data(), at + layout.ids_offset, top_k * sizeof ids[0]);
      bool any = false;
      for (int64_t j = 0; j < top_k; ++j) {
        const int64_t local = static_cast<int64_t>(ids[j]) - args.first_expert;
        const bool here = k < count && local >= 0 && local < args.num_experts_here;
        args.topk_ids.as<int32_t>()[row * top_k + j] = here ? static_cast<int32_t>(local) : -1;
        any = any || here;
      }
      if (!any) continue;
      std::memcpy(static_cast<std::byte*>(args.rows.raw()) + row * hidden_bytes, at, hidden_bytes);
      std::memcpy(args.topk_weights.as<float>() + row * top_k, at + layout.weights_offset,
                  top_k * sizeof(float));
    }
  }
}

void ReferenceBackend::DoMoeSliceSums(const MoeSliceSumsArgs& args) {
  const int64_t num_slices = args.sums.dim(1);
  const int64_t experts_per_slice = args.num_experts_here / num_slices;
  for (int64_t r = 0; r < args.out.dim(0); ++r) {
    for (int64_t slice = 0; slice < num_slices; ++slice) {
      const std::optional<Row> sum =
          SliceSum(args.out, args.topk_ids, args.topk_weights, r,
                   [&](int32_t id) { return id / experts_per_slice == slice; });
      if (sum) PutRow(args.sums, r * num_slices + slice, *sum);
    }
  }
}

void ReferenceBackend::DoMoeCombineSlices(const MoeCombineSlicesArgs& args) {
  const int64_t top_k = args.topk_ids.dim(1);
  const int64_t num_ranks = args.places.dim(1);
  const int64_t slices_per_rank = kExpertSlices / num_ranks;
  for (int64_t t = 0; t < args.hidden.dim(0); ++t) {
    const int32_t* ids = args.topk_ids.as<int32_t>() + t * top_k;
    Row total(args.hidden.dim(1));
    for (int64_t slice = 0; slice < kExpertSlices; ++slice) {
      const bool named = std::any_of(
          ids, ids + top_k, [&](int32_t id) { return SliceOf(id, args.num_experts) == slice; });
      if (!named) continue;
      const int64_t rank = slice / slices_per_rank;
      const int64_t place = args.places.as<int32_t>()[t * num_ranks + rank];
      const Row sum = RowOf(
          args.sums, (rank * args.capacity + place) * slices_per_rank + slice % slices_per_rank);
      for (size_t i = 0; i < total.size(); ++i) total[i] += sum[i];
    }
    EndMoeLayer(args, t, std::move(total));
  }
}

}  // namespace facet::kernels
