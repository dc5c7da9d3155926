#include "kernels/moe.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/approx.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/moe_sums.h"

namespace facet::kernels {
namespace {

// The (row, choice) pairs that have an expert, in the order of the experts, so that an expert's
// weights are read once for all rows that chose it.
class ExpertGroups {
 public:
  // Some rows of one expert.
  struct Block {
    int32_t expert;
    int64_t first;     // In pairs().
    int64_t num_rows;  // At most TiledLinear::kRows.
  };

  ExpertGroups(const ConstTensorView& topk_ids, int64_t num_experts) {
    const int32_t* ids = topk_ids.as<int32_t>();
    std::vector<int64_t> starts(num_experts + 1);
    for (int64_t i = 0; i < topk_ids.num_elements(); ++i) {
      if (ids[i] >= 0) ++starts[ids[i] + 1];
    }
    for (int64_t e = 0; e < num_experts; ++e) starts[e + 1] += starts[e];
    std::vector<int64_t> next(starts.begin(), starts.end() - 1);
    pairs_.resize(starts[num_experts]);
    for (int64_t i = 0; i < topk_ids.num_elements(); ++i) {
      if (ids[i] >= 0) pairs_[next[ids[i]]++] = i;
    }
    for (int64_t e = 0; e < num_experts; ++e) {
      for (int64_t first = starts[e]; first < starts[e + 1]; first += TiledLinear::kRows) {
        blocks_.push_back({.expert = static_cast<int32_t>(e),
                           .first = first,
                           .num_rows = std::min(TiledLinear::kRows, starts[e + 1] - first)});
      }
    }
  }

  // Each pair is row * top_k + choice.
  const std::vector<int64_t>& pairs() const { return pairs_; }

  const std::vector<Block>& blocks() const { return blocks_; }

 private:
  std::vector<int64_t> pairs_;
  std::vector<Block> blocks_;
};

// The top_k largest logits' ids (lower id on ties) and weights p / Σ chosen p · scale.
template <typename T>
void Choose(const float* logits,
            int64_t num_experts,
            int64_t top_k,
            const T* per_expert_scale,
            int32_t* ids,
            float* weights) {
  float largest = -std::numeric_limits<float>::infinity();
  for (int64_t e = 0; e < num_experts; ++e) largest = std::max(largest, logits[e]);
  float total = 0;
  for (int64_t e = 0; e < num_experts; ++e) total += ApproxExp(logits[e] - largest);
  float chosen_total = 0;
  for (int64_t j = 0; j < top_k; ++j) {
    int32_t best = -1;
    for (int32_t e = 0; e < num_experts; ++e) {
      if (std::find(ids, ids + j, e) != ids + j) continue;
      if (best < 0 || logits[e] > logits[best]) best = e;
    }
    ids[j] = best;
    weights[j] = ApproxExp(logits[best] - largest) / total;
    chosen_total += weights[j];
  }
  for (int64_t j = 0; j < top_k; ++j) {
    weights[j] = weights[j] / chosen_total * ToFloat(per_expert_scale[ids[j]]);
  }
}

}  // namespace

void CpuBackend::DoNormRouterTopK(const NormRouterTopKArgs& args) {
  const int64_t num_tokens = args.hidden.dim(0);
  const int64_t hidden = args.hidden.dim(1);
  const int64_t num_experts = args.router.rows;
  const int64_t top_k = args.topk_ids.dim(1);
  const auto size_factor = static_cast<float>(std::pow(static_cast<double>(hidden), -0.5));
  WithElement(args.hidden.dtype(), [&]<typename T>() {
    T* z = rows_.As<T>(num_tokens * (hidden + num_experts));
    T* logits = z + num_tokens * hidden;
    pool_.For(num_tokens, [&](int64_t t, int thread) {
      float* wide = scratch_.Floats(thread, 2 * hidden);
      float* normed = wide + hidden;
      AddNormed(primitives_, args.attention_out.as<T>() + t * hidden,
                args.post_attention_norm.as<T>(), hidden, args.eps,
                args.hidden.as<T>() + t * hidden, wide);
      RmsNormRow(primitives_, wide, args.pre_norm.as<T>(), hidden, args.eps,
                 args.dense_in.as<T>() + t * hidden);
      RmsNormRow(primitives_, wide, args.pre_norm_2.as<T>(), hidden, args.eps,
                 args.expert_in.as<T>() + t * hidden);
      RmsNormRow<T>(primitives_, wide, nullptr, hidden, args.eps, normed);
      const T* scale = args.router_scale.as<T>();
      for (int64_t i = 0; i < hidden; ++i) {
        z[t * hidden + i] = FromFloat<T>(Rounded<T>(normed[i] * ToFloat(scale[i])) * size_factor);
      }
    });
    Linear<T>(pool_, primitives_, scratch_, RowPointers<T>(z, num_tokens, hidden), args.router,
              [&](const TileSums& sums) { StoreRounded(sums, logits, num_experts, 0); });
    pool_.For(num_tokens, [&](int64_t t, int thread) {
      float* wide = scratch_.Floats(thread, num_experts);
      Widen(logits + t * num_experts, num_experts, wide);
      Choose(wide, num_experts, top_k, args.per_expert_scale.as<T>(),
             args.topk_ids.as<int32_t>() + t * top_k, args.topk_weights.as<float>() + t * top_k);
    });
  });
}

void CpuBackend::DoMoeUp(const MoeUpArgs& args) {
  const int64_t hidden = args.expert_in.dim(1);
  const int64_t top_k = args.topk_ids.dim(1);
  const int64_t intermediate = args.act.dim(2);
  WithElement(args.act.dtype(), [&]<typename T>() {
    const ExpertGroups groups(args.topk_ids, static_cast<int64_t>(args.experts.size()));
    std::vector<const void*> rows;
    std::vector<T*> out_rows;
    for (const int64_t pair : groups.pairs()) {
      rows.push_back(args.expert_in.as<T>() + pair / top_k * hidden);
      out_rows.push_back(args.act.as<T>() + pair * intermediate);
    }
    const int64_t tiles = TiledLinear::NumGroups(args.experts[0].gate);
    pool_.For(static_cast<int64_t>(groups.blocks().size()) * tiles, [&](int64_t item, int thread) {
      const ExpertGroups::Block& block = groups.blocks()[item / tiles];
      const ExpertWeights& expert = args.experts[block.expert];
      GatedGeluTile<T>(primitives_, scratch_, thread, rows.data(), block.first, block.num_rows,
                       expert.gate, expert.up, item % tiles, out_rows.data());
    });
    GatedGelu<T>(pool_, primitives_, scratch_,
                 RowPointers(args.dense_in.as<T>(), args.dense_in.dim(0), hidden), args.dense_gate,
                 args.dense_up, args.dense_act.as<T>(), args.dense_gate.rows);
  });
}

void CpuBackend::DoMoeDown(const MoeDownArgs& args) {
  const int64_t intermediate = args.act.dim(2);
  const int64_t hidden = args.out.dim(2);
  WithElement(args.act.dtype(), [&]<typename T>() {
    const ExpertGroups groups(args.topk_ids, static_cast<int64_t>(args.experts.size()));
    std::vector<const void*> rows;
    for (const int64_t pair : groups.pairs()) {
      rows.push_back(args.act.as<T>() + pair * intermediate);
    }
    const int64_t tiles = TiledLinear::NumGroups(args.experts[0].down);
    pool_.For(static_cast<int64_t>(groups.blocks().size()) * tiles, [&](int64_t item, int thread) {
      const ExpertGroups::Block& block = groups.blocks()[item / tiles];
      const TileSums sums = TiledLinear::Compute<T>(
          primitives_, args.experts[block.expert].down, rows.data(), block.first, block.num_rows,
          item % tiles, scratch_.Floats(thread, TiledLinear::kRows * TiledLinear::kOutputs));
      for (int64_t r = 0; r < sums.num_rows; ++r) {
        T* to = args.out.as<T>() + groups.pairs()[block.first + r] * hidden + sums.first_output;
        Narrow(sums.y + r * sums.y_stride, sums.num_outputs, to);
      }
    });
    Linear<T>(pool_, primitives_, scratch_,
              RowPointers(args.dense_act.as<T>(), args.dense_act.dim(0), args.dense_act.dim(1)),
              args.dense_down,
              [&](const TileSums& sums) { StoreRounded(sums, args.dense_out.as<T>(), hidden, 0); });
  });
}

void CpuBackend::DoMoeCombine(const MoeCombineArgs& args) {
  const int64_t hidden = args.hidden.dim(1);
  const int64_t top_k = args.topk_ids.dim(1);
  WithElement(args.hidden.dtype(), [&]<typename T>() {
    pool_.For(args.hidden.dim(0), [&](int64_t t, int thread) {
      float* total = scratch_.Floats(thread, 2 * hidden);
      float* wide = total + hidden;
      std::fill_n(total, hidden, 0.0F);
      ForSliceSums(
          args.out.as<T>() + t * top_k * hidden, args.topk_ids.as<int32_t>() + t * top_k,
          args.topk_weights.as<float>() + t * top_k, top_k, hidden, wide,
          [&](int32_t id) { return SliceOf(id, args.num_experts); },
          [&](int64_t, const float* sum) {
            for (int64_t i = 0; i < hidden; ++i) total[i] += Rounded<T>(sum[i]);
          });
      EndMoeLayer<T>(primitives_, args, t, total, wide);
    });
  });
}

}  // namespace facet::kernels
