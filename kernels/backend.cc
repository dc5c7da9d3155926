#include "kernels/backend.h"

#include <algorithm>

namespace facet::kernels {
namespace {

bool IsActivation(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBf16; }

void CheckWeight(const PackedWeight& weight, int64_t rows, int64_t cols) {
  FACET_CHECK_EQ(weight.rows, rows);
  FACET_CHECK_EQ(weight.cols, cols);
}

// Of a block of such rows, in i32.
int64_t MoeBlockWords(DType dtype, int64_t hidden, int64_t top_k, int64_t capacity) {
  return MoeRowLayout(dtype, hidden, top_k).Blocks(capacity).block_bytes() / SizeOf(DType::kI32);
}

}  // namespace

void Backend::Embed(const EmbedArgs& args) {
  const int64_t num_tokens = args.ids.dim(0);
  FACET_CHECK(IsActivation(args.hidden.dtype()));
  FACET_CHECK(args.ids.Is(DType::kI32, {num_tokens}));
  FACET_CHECK(args.resolved_ids.Is(DType::kI32, {num_tokens}));
  FACET_CHECK_LE(args.placeholders.size(), size_t{kPlaceholdersMax});
  FACET_CHECK(args.hidden.Is(args.hidden.dtype(), {num_tokens, args.table.cols}));
  DoEmbed(args);
}

void Backend::PleInputs(const PleInputsArgs& args) {
  const int64_t num_tokens = args.ids.dim(0);
  const int64_t width = args.projection.rows;
  const DType dtype = args.hidden.dtype();
  FACET_CHECK(args.hidden.Is(dtype, {num_tokens, args.projection.cols}));
  FACET_CHECK(args.ple.Is(dtype, {num_tokens, width}));
  FACET_CHECK_EQ(args.table.dim(1), width);
  FACET_CHECK_EQ(width % args.norm_weight.dim(0), 0);
  DoPleInputs(args);
}

void Backend::NormQkv(const NormQkvArgs& args) {
  const int64_t num_tokens = args.hidden.dim(0);
  const int64_t hidden = args.hidden.dim(1);
  const DType dtype = args.hidden.dtype();
  int64_t width = 0;
  FACET_CHECK(args.q != nullptr);
  FACET_CHECK(args.k != nullptr || args.v == nullptr);
  for (const PackedWeight* weight : {args.q, args.k, args.v}) {
    if (weight == nullptr) continue;
    FACET_CHECK_EQ(weight->cols, hidden);
    width += weight->rows;
  }
  FACET_CHECK(args.norm_weight.Is(dtype, {hidden}));
  FACET_CHECK(args.qkv.Is(dtype, {num_tokens, width}));
  DoNormQkv(args);
}

void Backend::PagedAttention(const PagedAttentionArgs& args) {
  const int64_t num_tokens = args.qkv.dim(0);
  const DType dtype = args.qkv.dtype();
  const int num_kv = !args.has_kv ? 0 : args.k_eq_v ? 1 : 2;
  const int64_t width =
      (args.num_q_heads + static_cast<int64_t>(num_kv) * args.num_kv_heads) * args.head_dim;
  FACET_CHECK(args.qkv.Is(dtype, {num_tokens, width}));
  FACET_CHECK(args.q_norm.Is(dtype, {args.head_dim}));
  FACET_CHECK(args.inv_freq.Is(DType::kF32, {args.head_dim / 2}));
  FACET_CHECK_EQ(args.num_q_heads % args.num_kv_heads, 0);
  FACET_CHECK(
      args.out.Is(dtype, {num_tokens, static_cast<int64_t>(args.num_q_heads) * args.head_dim}));
  int64_t tokens_in_rows = 0;
  for (const AttentionRow& row : args.batch.rows) {
    FACET_CHECK_EQ(row.first_token, tokens_in_rows);
    tokens_in_rows += row.num_tokens;
    const int64_t last_block = (row.first_position + row.num_tokens - 1) / kBlockTokens;
    FACET_CHECK_GE(row.first_block + static_cast<int64_t>(row.blocks.size()), last_block + 1);
    const int64_t oldest =
        args.window == 0 ? 0 : std::max<int64_t>(0, row.first_position - args.window + 1);
    FACET_CHECK_LE(row.first_block, oldest / kBlockTokens);
  }
  FACET_CHECK_EQ(tokens_in_rows, num_tokens);
  DoPagedAttention(args);
}

void Backend::OutputProj(const OutputProjArgs& args) {
  const int64_t num_tokens = args.attention.dim(0);
  FACET_CHECK_EQ(args.attention.dim(1), args.weight.cols);
  FACET_CHECK(args.out.Is(args.attention.dtype(), {num_tokens, args.weight.rows}));
  DoOutputProj(args);
}

void Backend::NormGateUp(const NormGateUpArgs& args) {
  const int64_t num_tokens = args.hidden.dim(0);
  const int64_t hidden = args.hidden.dim(1);
  const DType dtype = args.hidden.dtype();
  FACET_CHECK(args.attention_out.Is(dtype, {num_tokens, hidden}));
  FACET_CHECK(args.post_attention_norm.Is(dtype, {hidden}));
  FACET_CHECK(args.pre_feedforward_norm.Is(dtype, {hidden}));
  CheckWeight(args.gate, args.act.dim(1), hidden);
  CheckWeight(args.up, args.act.dim(1), hidden);
  FACET_CHECK(args.act.Is(dtype, {num_tokens, args.gate.rows}));
  DoNormGateUp(args);
}

void Backend::MlpDown(const MlpDownArgs& args) {
  const int64_t num_tokens = args.act.dim(0);
  const DType dtype = args.act.dtype();
  CheckWeight(args.weight, args.out.dim(1), args.act.dim(1));
  FACET_CHECK(args.out.Is(dtype, {num_tokens, args.weight.rows}));
  if (!args.finish_hidden.empty()) {
    FACET_CHECK(args.finish_hidden.Is(dtype, {num_tokens, args.weight.rows}));
    FACET_CHECK(args.post_feedforward_norm.Is(dtype, {args.weight.rows}));
  }
  DoMlpDown(args);
}

void Backend::NormRouterTopK(const NormRouterTopKArgs& args) {
  const int64_t num_tokens = args.hidden.dim(0);
  const int64_t hidden = args.hidden.dim(1);
  const DType dtype = args.hidden.dtype();
  for (const ConstTensorView& view :
       {args.attention_out, ConstTensorView(args.dense_in), ConstTensorView(args.expert_in)}) {
    FACET_CHECK(view.Is(dtype, {num_tokens, hidden}));
  }
  for (const ConstTensorView& view :
       {args.post_attention_norm, args.pre_norm, args.pre_norm_2, args.router_scale}) {
    FACET_CHECK(view.Is(dtype, {hidden}));
  }
  FACET_CHECK_EQ(args.router.cols, hidden);
  FACET_CHECK(args.per_expert_scale.Is(dtype, {args.router.rows}));
  const int64_t top_k = args.topk_ids.dim(1);
  FACET_CHECK_LE(top_k, args.router.rows);
  FACET_CHECK(args.topk_ids.Is(DType::kI32, {num_tokens, top_k}));
  FACET_CHECK(args.topk_weights.Is(DType::kF32, {num_tokens, top_k}));
  DoNormRouterTopK(args);
}

void Backend::MoeUp(const MoeUpArgs& args) {
  const int64_t num_rows = args.expert_in.dim(0);
  const int64_t hidden = args.expert_in.dim(1);
  const DType dtype = args.expert_in.dtype();
  FACET_CHECK(!args.experts.empty());
  CheckWeight(args.experts[0].gate, args.act.dim(2), hidden);
  FACET_CHECK(args.topk_ids.Is(DType::kI32, {num_rows, args.topk_ids.dim(1)}));
  FACET_CHECK(args.act.Is(dtype, {num_rows, args.topk_ids.dim(1), args.act.dim(2)}));
  const int64_t num_tokens = args.dense_in.dim(0);
  FACET_CHECK(args.dense_in.Is(dtype, {num_tokens, hidden}));
  FACET_CHECK(args.dense_act.Is(dtype, {num_tokens, args.dense_gate.rows}));
  CheckWeight(args.dense_gate, args.dense_act.dim(1), hidden);
  CheckWeight(args.dense_up, args.dense_act.dim(1), hidden);
  DoMoeUp(args);
}

void Backend::MoeDown(const MoeDownArgs& args) {
  const int64_t num_rows = args.act.dim(0);
  const int64_t hidden = args.dense_out.dim(1);
  const DType dtype = args.act.dtype();
  FACET_CHECK(!args.experts.empty());
  CheckWeight(args.experts[0].down, hidden, args.act.dim(2));
  CheckWeight(args.dense_down, hidden, args.dense_act.dim(1));
  FACET_CHECK(args.topk_ids.Is(DType::kI32, {num_rows, args.topk_ids.dim(1)}));
  FACET_CHECK(args.out.Is(dtype, {num_rows, args.topk_ids.dim(1), hidden}));
  FACET_CHECK(args.dense_out.Is(dtype, {args.dense_act.dim(0), hidden}));
  DoMoeDown(args);
}

void Backend::MoeCombine(const MoeCombineArgs& args) {
  const int64_t num_tokens = args.hidden.dim(0);
  const int64_t hidden = args.hidden.dim(1);
  const DType dtype = args.hidden.dtype();
  FACET_CHECK(args.dense_out.Is(dtype, {num_tokens, hidden}));
  FACET_CHECK(args.out.Is(dtype, {num_tokens, args.topk_ids.dim(1), hidden}));
  for (const ConstTensorView& view : {args.post_norm, args.post_norm_1, args.post_norm_2}) {
    FACET_CHECK(view.Is(dtype, {hidden}));
  }
  DoMoeCombine(args);
}

void Backend::MoePack(const MoePackArgs& args) {
  const int64_t num_tokens = args.expert_in.dim(0);
  const int64_t hidden = args.expert_in.dim(1);
  const int64_t top_k = args.topk_ids.dim(1);
  const int64_t num_ranks = args.places.dim(1);
  FACET_CHECK(IsActivation(args.expert_in.dtype()));
  FACET_CHECK(args.expert_in.Is(args.expert_in.dtype(), {num_tokens, hidden}));
  FACET_CHECK(args.topk_ids.Is(DType::kI32, {num_tokens, top_k}));
  FACET_CHECK(args.topk_weights.Is(DType::kF32, {num_tokens, top_k}));
  FACET_CHECK_EQ(args.num_experts % kExpertSlices, 0);
  FACET_CHECK_EQ(kExpertSlices % num_ranks, 0);
  FACET_CHECK_LE(num_tokens, args.capacity);
  const int64_t num_blocks = args.form == MoeDispatch::kAllGather ? 1 : num_ranks;
  FACET_CHECK(args.blocks.Is(DType::kI32, {num_blocks, MoeBlockWords(args.expert_in.dtype(), hidden,
                                                                     top_k, args.capacity)}));
  FACET_CHECK(args.places.Is(DType::kI32, {num_tokens, num_ranks}));
  FACET_CHECK(args.expert_tokens != nullptr);
  DoMoePack(args);
}

void Backend::MoeUnpack(const MoeUnpackArgs& args) {
  const int64_t num_ranks = args.blocks.dim(0);
  const int64_t num_rows = num_ranks * args.capacity;
  const int64_t hidden = args.rows.dim(1);
  const int64_t top_k = args.topk_ids.dim(1);
  FACET_CHECK(IsActivation(args.rows.dtype()));
  FACET_CHECK(args.blocks.Is(
      DType::kI32, {num_ranks, MoeBlockWords(args.rows.dtype(), hidden, top_k, args.capacity)}));
  FACET_CHECK(args.rows.Is(args.rows.dtype(), {num_rows, hidden}));
  FACET_CHECK(args.topk_ids.Is(DType::kI32, {num_rows, top_k}));
  FACET_CHECK(args.topk_weights.Is(DType::kF32, {num_rows, top_k}));
  if (num_rows > 0) DoMoeUnpack(args);
}

void Backend::MoeSliceSums(const MoeSliceSumsArgs& args) {
  const int64_t num_rows = args.out.dim(0);
  const int64_t top_k = args.out.dim(1);
  const int64_t hidden = args.out.dim(2);
  const int64_t num_slices = args.sums.dim(1);
  FACET_CHECK(args.topk_ids.Is(DType::kI32, {num_rows, top_k}));
  FACET_CHECK(args.topk_weights.Is(DType::kF32, {num_rows, top_k}));
  FACET_CHECK_EQ(args.num_experts_here % num_slices, 0);
  FACET_CHECK(args.sums.Is(args.out.dtype(), {num_rows, num_slices, hidden}));
  if (num_rows > 0) DoMoeSliceSums(args);
}

void Backend::MoeCombineSlices(const MoeCombineSlicesArgs& args) {
  const int64_t num_tokens = args.hidden.dim(0);
  const int64_t hidden = args.hidden.dim(1);
  const int64_t num_ranks = args.places.dim(1);
  const DType dtype = args.hidden.dtype();
  FACET_CHECK(args.dense_out.Is(dtype, {num_tokens, hidden}));
  FACET_CHECK(args.topk_ids.Is(DType::kI32, {num_tokens, args.topk_ids.dim(1)}));
  FACET_CHECK(args.places.Is(DType::kI32, {num_tokens, num_ranks}));
  FACET_CHECK_EQ(kExpertSlices % num_ranks, 0);
  FACET_CHECK(args.sums.Is(dtype, {args.capacity * kExpertSlices, hidden}));
  for (const ConstTensorView& view : {args.post_norm, args.post_norm_1, args.post_norm_2}) {
    FACET_CHECK(view.Is(dtype, {hidden}));
  }
  if (num_tokens > 0) DoMoeCombineSlices(args);
}

void Backend::PleInject(const PleInjectArgs& args) {
  const int64_t num_tokens = args.hidden.dim(0);
  const int64_t hidden = args.hidden.dim(1);
  const DType dtype = args.hidden.dtype();
  const int64_t ple_size = args.gate.rows;
  CheckWeight(args.gate, ple_size, hidden);
  CheckWeight(args.projection, hidden, ple_size);
  FACET_CHECK(args.ffn_out.Is(dtype, {num_tokens, hidden}));
  FACET_CHECK(args.post_feedforward_norm.Is(dtype, {hidden}));
  FACET_CHECK(args.post_norm.Is(dtype, {hidden}));
  FACET_CHECK_EQ(args.ple.dim(0), num_tokens);
  FACET_CHECK_LE((args.layer + 1) * ple_size, args.ple.dim(1));
  DoPleInject(args);
}

void Backend::KeepRows(const KeepRowsArgs& args) {
  FACET_CHECK(args.rows.Is(DType::kI32, {args.rows.dim(0)}));
  FACET_CHECK(args.out.Is(args.in.dtype(), {args.rows.dim(0), args.in.dim(1)}));
  if (args.rows.dim(0) > 0) DoKeepRows(args);
}

void Backend::Head(const HeadArgs& args) {
  const int64_t num_rows = args.rows.dim(0);
  FACET_CHECK(args.norm_weight.Is(args.hidden.dtype(), {args.hidden.dim(1)}));
  FACET_CHECK_EQ(args.weight.cols, args.hidden.dim(1));
  FACET_CHECK(args.logits.Is(DType::kF32, {num_rows, args.weight.rows}));
  if (num_rows > 0) DoHead(args);
}

void Backend::Sample(const SampleArgs& args) {
  for (const SampleRow& row : args.rows) {
    FACET_CHECK_LT(row.logits_row, args.logits.dim(0));
    FACET_CHECK(row.slot < 0 || row.slot < args.last_tokens.dim(0)) << row.slot;
  }
  if (!args.rows.empty()) DoSample(args);
}

}  // namespace facet::kernels
