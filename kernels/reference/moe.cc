#include "kernels/moe.h"

#include <algorithm>
#include <numeric>

#include "kernels/reference/plain.h"
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
  for (int64_t t = 0; t < args.expert_in.dim(0); ++t) {
    const Row x = RowOf(args.expert_in, t);
    for (int64_t j = 0; j < top_k; ++j) {
      const ExpertWeights& expert = args.experts[args.topk_ids.as<int32_t>()[t * top_k + j]];
      const Row gate = Linear(up_first ? expert.up : expert.gate, x, dtype);
      const Row up = Linear(up_first ? expert.gate : expert.up, x, dtype);
      PutRow(args.act, t * top_k + j, GatedGelu(gate, up, dtype));
    }
    const Row dense = RowOf(args.dense_in, t);
    PutRow(args.dense_act, t,
           GatedGelu(Linear(args.dense_gate, dense, dtype), Linear(args.dense_up, dense, dtype),
                     dtype));
  }
}

void ReferenceBackend::DoMoeDown(const MoeDownArgs& args) {
  const DType dtype = args.act.dtype();
  const int64_t top_k = args.topk_ids.dim(1);
  for (int64_t t = 0; t < args.act.dim(0); ++t) {
    for (int64_t j = 0; j < top_k; ++j) {
      const ExpertWeights& expert = args.experts[args.topk_ids.as<int32_t>()[t * top_k + j]];
      PutRow(args.out, t * top_k + j, Linear(expert.down, RowOf(args.act, t * top_k + j), dtype));
    }
    PutRow(args.dense_out, t, Linear(args.dense_down, RowOf(args.dense_act, t), dtype));
  }
}

void ReferenceBackend::DoMoeCombine(const MoeCombineArgs& args) {
  const DType dtype = args.hidden.dtype();
  const int64_t top_k = args.topk_ids.dim(1);
  const float layer_scalar = Misread(Misreading::kLayerScalarIgnored) ? 1 : args.layer_scalar;
  const bool swapped = Misread(Misreading::kMoePostNormsSwapped);
  for (int64_t t = 0; t < args.hidden.dim(0); ++t) {
    const int32_t* ids = args.topk_ids.as<int32_t>() + t * top_k;
    std::vector<int64_t> order(top_k);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return ids[a] < ids[b]; });
    Row total(args.hidden.dim(1));
    for (int slice = 0; slice < kExpertSlices; ++slice) {
      Row sum(args.hidden.dim(1));
      for (const int64_t j : order) {
        if (SliceOf(ids[j], args.num_experts) != slice) continue;
        const Row out = RowOf(args.out, t * top_k + j);
        const float weight = args.topk_weights.as<float>()[t * top_k + j];
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += weight * out[i];
      }
      for (size_t i = 0; i < sum.size(); ++i) total[i] += RoundTo(dtype, sum[i]);
    }
    for (float& value : total) value = RoundTo(dtype, value);
    const Row a = RmsNorm(RowOf(args.dense_out, t), swapped ? args.post_norm_2 : args.post_norm_1,
                          args.eps, dtype);
    const Row b = RmsNorm(total, swapped ? args.post_norm_1 : args.post_norm_2, args.eps, dtype);
    Row branch = Add(a, b, dtype);
    if (!Misread(Misreading::kPostFeedforwardNormIgnored)) {
      branch = RmsNorm(branch, args.post_norm, args.eps, dtype);
    }
    PutRow(args.hidden, t, Scale(Add(RowOf(args.hidden, t), branch, dtype), layer_scalar, dtype));
  }
}

}  // namespace facet::kernels
