#include "kernels/moe.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "kernels/reference/moe_sums.h"
#include "kernels/reference/reference_backend.h"

namespace facet::kernels {

using namespace reference;  // NOLINT(google-build-using-namespace): the words of this folder.

void ReferenceBackend::DoNormRouterTopK(const NormRouterTopKArgs& args) {
  const DType dtype = args.hidden.dtype();
  const int64_t top_k = args.topk_ids.dim(1);
  const auto size_factor = static_cast<float>(std::pow(args.hidden.dim(1), -0.5));
  for (int64_t t = 0; t < args.hidden.dim(0); ++t) {
    Row branch = RowOf(args.attention_out, t);
    if (!Misread(Misreading::kPostAttentionNormIgnored)) {
      branch = RmsNorm(branch, args.post_attention_norm, args.eps, dtype);
    }
    const Row hidden = Add(RowOf(args.hidden, t), branch, dtype);
    PutRow(args.hidden, t, hidden);
    const Row dense_in = RmsNorm(hidden, args.pre_norm, args.eps, dtype);
    PutRow(args.dense_in, t, dense_in);
    PutRow(args.expert_in, t,
           Misread(Misreading::kExpertsReadDenseInput)
               ? dense_in
               : RmsNorm(hidden, args.pre_norm_2, args.eps, dtype));

    Row z =
        Misread(Misreading::kRouterInputNormed) ? dense_in : RmsNorm(hidden, {}, args.eps, dtype);
    for (size_t i = 0; i < z.size(); ++i) {
      if (!Misread(Misreading::kRouterScaleIgnored)) {
        z[i] = RoundTo(dtype, z[i] * At(args.router_scale, static_cast<int64_t>(i)));
      }
    }
    if (!Misread(Misreading::kRouterSizeFactorIgnored)) z = Scale(z, size_factor, dtype);
    const Row logits = Linear(args.router, z, dtype);
    const float largest = *std::max_element(logits.begin(), logits.end());
    double total = 0;
    for (const float logit : logits) total += std::exp(static_cast<double>(logit) - largest);
    std::vector<int32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    double chosen_total = 0;
    for (int64_t j = 0; j < top_k; ++j) {
      chosen_total += std::exp(static_cast<double>(logits[order[j]]) - largest) / total;
    }
    if (Misread(Misreading::kRouterNotRenormalised)) chosen_total = 1;
    for (int64_t j = 0; j < top_k; ++j) {
      const double p = std::exp(static_cast<double>(logits[order[j]]) - largest) / total;
      float weight = static_cast<float>(p / chosen_total);
      if (!Misread(Misreading::kPerExpertScaleIgnored)) {
        weight *= At(args.per_expert_scale, order[j]);
      }
      args.topk_ids.as<int32_t>()[t * top_k + j] = order[j];
      args.topk_weights.as<float>()[t * top_k + j] = weight;
    }
  }
}

void ReferenceBackend::DoMoeUp(const MoeUpArgs& args) {
  const DType dtype = args.act.dtype();
  const int64_t top_k = args.topk_ids.dim(1);
  const bool up_first = Misread(Misreading::kExpertUpFirst);
  for (int64_t r = 0; r < args.expert_in.dim(0); ++r) {
    const Row x = RowOf(args.expert_in, r);
    for (int64_t j = 0; j < top_k; ++j) {
      const int32_t id = args.topk_ids.as<int32_t>()[r * top_k + j];
      if (id < 0) continue;
      const ExpertWeights& expert = args.experts[id];
      const Row gate = Linear(up_first ? expert.up : expert.gate, x, dtype);
      const Row up = Linear(up_first ? expert.gate : expert.up, x, dtype);
      PutRow(args.act, r * top_k + j, GatedGelu(gate, up, dtype));
    }
  }
  for (int64_t t = 0; t < args.dense_in.dim(0); ++t) {
    const Row dense = RowOf(args.dense_in, t);
    PutRow(args.dense_act, t,
           GatedGelu(Linear(args.dense_gate, dense, dtype), Linear(args.dense_up, dense, dtype),
                     dtype));
  }
}

void ReferenceBackend::DoMoeDown(const MoeDownArgs& args) {
  const DType dtype = args.act.dtype();
  for (int64_t pair = 0; pair < args.topk_ids.num_elements(); ++pair) {
    const int32_t id = args.topk_ids.as<int32_t>()[pair];
    if (id < 0) continue;
    PutRow(args.out, pair, Linear(args.experts[id].down, RowOf(args.act, pair), dtype));
  }
  for (int64_t t = 0; t < args.dense_act.dim(0); ++t) {
    PutRow(args.dense_out, t, Linear(args.dense_down, RowOf(args.dense_act, t), dtype));
  }
}

void ReferenceBackend::DoMoeCombine(const MoeCombineArgs& args) {
  for (int64_t t = 0; t < args.hidden.dim(0); ++t) {
    Row total(args.hidden.dim(1));
    for (int slice = 0; slice < kExpertSlices; ++slice) {
      const std::optional<Row> sum =
          SliceSum(args.out, args.topk_ids, args.topk_weights, t,
                   [&](int32_t id) { return SliceOf(id, args.num_experts) == slice; });
      if (!sum) continue;
      for (size_t i = 0; i < total.size(); ++i) {
        total[i] += RoundTo(args.hidden.dtype(), (*sum)[i]);
      }
    }
    EndMoeLayer(args, t, std::move(total));
  }
}

}  // namespace facet::kernels
