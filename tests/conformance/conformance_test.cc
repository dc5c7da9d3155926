// Every op of every peer against the reference, on random shapes.
//
// Tolerances. float32: the reference sums in double, so what differs is the backend's float32
// rounding, some 1e-6 of the terms' size for the k used here; 2e-5 of the output's scale leaves
// room. bfloat16: both sides round at the same places, but a sum that lies near a rounding border
// may fall on either side: one bf16 step is 2^-8 of the value, and a flipped step early in an op
// moves later ones, so 2.5 steps of the output's scale. Routing and sampling are compared exactly.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "tests/conformance/conformance_case.h"

namespace facet::kernels {
namespace {

TEST_P(ConformanceTest, Embed) {
  const int64_t tokens = Between(1, 20);
  const int64_t hidden = Width(2, 200);
  const Packed table = RandomWeight(70, hidden);
  Tensor ids(DType::kI32, {tokens});
  // Ids from the host and ids that the step before drew, placeholders among both.
  for (int64_t t = 0; t < tokens; ++t) {
    ids.view().as<int32_t>()[t] =
        static_cast<int32_t>(t % 3 == 2 ? FedToken(Between(0, 5)) : Between(0, 69));
  }
  Tensor last_tokens(DType::kI32, {6});
  for (int slot = 0; slot < 6; ++slot) last_tokens.view().as<int32_t>()[slot] = Between(0, 69);
  std::vector<int32_t> placeholders = {ids.ints()[0], last_tokens.ints()[0]};
  if (placeholders[0] < 0 || Between(0, 3) == 0) placeholders.clear();
  Tensor want(dtype_, {tokens, hidden});
  Tensor got(dtype_, {tokens, hidden});
  Tensor want_ids(DType::kI32, {tokens});
  Tensor got_ids(DType::kI32, {tokens});
  const auto args = [&](Side& side, Tensor& resolved, Tensor& out) {
    return EmbedArgs{.ids = side.View(ids),
                     .last_tokens = side.View(std::as_const(last_tokens)),
                     .placeholders = placeholders,
                     .pad_id = 3,
                     .table = On(side, table),
                     .scale = 9.75F,
                     .resolved_ids = side.View(resolved),
                     .hidden = side.View(out)};
  };
  reference_->Embed(args(reference_, want_ids, want));
  peer_->Embed(args(peer_, got_ids, got));
  peer_.Fetch();
  EXPECT_EQ(got_ids.ints(), want_ids.ints());
  EXPECT_TRUE(got == want);  // One product, one rounding: no freedom.
}

TEST_P(ConformanceTest, PleInputs) {
  const int64_t tokens = Between(1, 9);
  const int64_t hidden = Width(2, 120);
  const int64_t ple_size = Width(2, 40);
  const int64_t width = ple_size * Between(1, 5);
  const Tensor table = Random({50, width});
  const Tensor embedded = Random({tokens, hidden});
  const Packed projection = RandomWeight(width, hidden);
  const Tensor norm = RandomNorm(ple_size);
  Tensor ids(DType::kI32, {tokens});
  for (int64_t t = 0; t < tokens; ++t) ids.view().as<int32_t>()[t] = Between(0, 49);
  Tensor want(dtype_, {tokens, width});
  Tensor got(dtype_, {tokens, width});
  const auto args = [&](Side& side, const PackedWeight& weight, Tensor& out) {
    return PleInputsArgs{
        side.View(ids), side.Table(table), side.View(embedded), weight, side.View(norm), 4.0F, 0.1F,
        1e-5F,          side.View(out)};
  };
  reference_->PleInputs(args(reference_, projection.reference, want));
  peer_->PleInputs(args(peer_, projection.peer, got));
  peer_.Fetch();
  ExpectClose(got, want, "ple");
}

TEST_P(ConformanceTest, NormQkv) {
  const int64_t tokens = Between(1, 60);
  const int64_t hidden = Width(2, 200);
  const Tensor input = Random({tokens, hidden}, 3);
  const Tensor norm = RandomNorm(hidden);
  const Packed q = RandomWeight(Between(1, 150), hidden);
  const Packed k = RandomWeight(Between(1, 50), hidden);
  const Packed v = RandomWeight(k.peer.rows, hidden);
  for (int parts = 1; parts <= 3; ++parts) {
    const int64_t width = q.peer.rows + (parts - 1) * k.peer.rows;
    Tensor want(dtype_, {tokens, width});
    Tensor got(dtype_, {tokens, width});
    reference_->NormQkv({reference_.View(input), reference_.View(norm), 1e-6F, &q.reference,
                         parts > 1 ? &k.reference : nullptr, parts > 2 ? &v.reference : nullptr,
                         reference_.View(want)});
    peer_->NormQkv({peer_.View(input), peer_.View(norm), 1e-6F, &q.peer,
                    parts > 1 ? &k.peer : nullptr, parts > 2 ? &v.peer : nullptr, peer_.View(got)});
    peer_.Fetch();
    ExpectClose(got, want, "qkv");
  }
}

// Several steps over one cache: prefill chunks and decode rows of several sequences, each backend
// on a cache of its own layout.
TEST_P(ConformanceTest, PagedAttention) {
  const int head_dim = 16 << Between(0, 2);
  const int kv_heads = static_cast<int>(Between(1, 3));
  const int q_heads = kv_heads * static_cast<int>(Between(1, 6));
  const int64_t window = Between(0, 1) * Between(1, 40);
  const bool k_eq_v = Between(0, 1) == 1;
  const Tensor q_norm = RandomNorm(head_dim);
  const Tensor k_norm = RandomNorm(head_dim);
  Tensor inv_freq(DType::kF32, {head_dim / 2});
  for (int i = 0; i < head_dim / 2; ++i) {
    inv_freq.set(i, i % 3 == 2 ? 0
                               : std::pow(100.0F, -2.0F * static_cast<float>(i) /
                                                      static_cast<float>(head_dim)));
  }
  constexpr int kSequences = 3;
  constexpr int kBlocksEach = 8;
  constexpr int64_t kCacheBlocks = kSequences * kBlocksEach;
  const int64_t block_bytes = int64_t{2} * kv_heads * kBlockTokens * head_dim * SizeOf(dtype_);
  const Buffer reference_cache = reference_->Allocate(kCacheBlocks * block_bytes);
  const Buffer peer_cache = peer_->Allocate(kCacheBlocks * block_bytes);
  std::vector<std::vector<int32_t>> tables(kSequences);
  for (int s = 0; s < kSequences; ++s) {
    for (int b = 0; b < kBlocksEach; ++b) tables[s].push_back(b * kSequences + s);
  }
  std::vector<int64_t> lengths(kSequences, 0);
  for (int step = 0; step < 4; ++step) {
    std::vector<AttentionRow> rows;
    int32_t tokens = 0;
    for (int s = 0; s < kSequences; ++s) {
      const auto chunk = static_cast<int32_t>(step == 3 ? 1 : Between(1, 40));
      rows.push_back({.first_token = tokens,
                      .num_tokens = chunk,
                      .first_position = lengths[s],
                      .blocks = tables[s]});
      tokens += chunk;
      lengths[s] += chunk;
    }
    const int64_t width = (q_heads + (k_eq_v ? 1 : 2) * kv_heads) * head_dim;
    Tensor qkv = Random({tokens, width});
    Tensor qkv_copy = qkv;
    Tensor want(dtype_, {tokens, static_cast<int64_t>(q_heads) * head_dim});
    Tensor got = want;
    const auto args = [&](Side& side, Tensor& input, const Buffer& cache, Tensor& out) {
      return PagedAttentionArgs{
          .qkv = side.View(input),
          .q_norm = side.View(q_norm),
          .k_norm = side.View(k_norm),
          .inv_freq = side.View(inv_freq),
          .eps = 1e-6F,
          .num_q_heads = q_heads,
          .num_kv_heads = kv_heads,
          .head_dim = head_dim,
          .k_eq_v = k_eq_v,
          .window = window,
          .batch = side->StageRows(rows, {.num_q_heads = q_heads,
                                          .num_kv_heads = kv_heads,
                                          .head_dim = head_dim,
                                          .window = window}),
          .kv = {.base = static_cast<std::byte*>(cache.data()), .block_stride = block_bytes},
          .out = side.View(out)};
    };
    reference_->PagedAttention(args(reference_, qkv, reference_cache, want));
    const PagedAttentionArgs peer_args = args(peer_, qkv_copy, peer_cache, got);
    peer_->SendStaged();
    peer_->PagedAttention(peer_args);
    peer_.Fetch();
    ExpectClose(got, want, "attention");
  }
}

TEST_P(ConformanceTest, OutputProj) {
  const int64_t tokens = Between(1, 70);
  const Packed weight = RandomWeight(Between(1, 200), Width(2, 300));
  const Tensor input = Random({tokens, weight.peer.cols});
  Tensor want(dtype_, {tokens, weight.peer.rows});
  Tensor got = want;
  reference_->OutputProj({reference_.View(input), weight.reference, reference_.View(want)});
  peer_->OutputProj({peer_.View(input), weight.peer, peer_.View(got)});
  peer_.Fetch();
  ExpectClose(got, want, "out");
}

// Kernels are chosen by rows, tokens and the size of the device: these leave work for each of some
// hundred processors, for every number of tokens at which the choice changes.
TEST_P(ConformanceTest, OutputProjThatFillsADevice) {
  struct Size {
    int64_t tokens, rows;
  };

  constexpr Size kSizes[] = {{1, 8500},   {9, 8500},   {17, 17000},
                             {33, 17000}, {64, 17000}, {600, 4100}};
  const Size size = kSizes[GetParam().seed % std::size(kSizes)];
  const Packed weight = RandomWeight(size.rows, 40);
  const Tensor input = Random({size.tokens, 40});
  Tensor want(dtype_, {size.tokens, size.rows});
  Tensor got = want;
  reference_->OutputProj({reference_.View(input), weight.reference, reference_.View(want)});
  peer_->OutputProj({peer_.View(input), weight.peer, peer_.View(got)});
  peer_.Fetch();
  ExpectClose(got, want, "out");
}

TEST_P(ConformanceTest, NormGateUpAndMlpDown) {
  const int64_t tokens = Between(1, 60);
  const int64_t hidden = Width(2, 150);
  const Packed gate = RandomWeight(Width(2, 200), hidden);
  const Packed up = RandomWeight(gate.peer.rows, hidden);
  const Packed down = RandomWeight(hidden, gate.peer.rows);
  const Tensor attention = Random({tokens, hidden});
  const Tensor norm1 = RandomNorm(hidden);
  const Tensor norm2 = RandomNorm(hidden);
  Tensor hidden_want = Random({tokens, hidden});
  Tensor hidden_got = hidden_want;
  Tensor act_want(dtype_, {tokens, gate.peer.rows});
  Tensor act_got = act_want;
  reference_->NormGateUp({reference_.View(hidden_want), reference_.View(attention),
                          reference_.View(norm1), reference_.View(norm2), 1e-6F, gate.reference,
                          up.reference, reference_.View(act_want)});
  peer_->NormGateUp({peer_.View(hidden_got), peer_.View(attention), peer_.View(norm1),
                     peer_.View(norm2), 1e-6F, gate.peer, up.peer, peer_.View(act_got)});
  peer_.Fetch();
  ExpectClose(hidden_got, hidden_want, "hidden");
  ExpectClose(act_got, act_want, "act");
  for (const bool finish : {false, true}) {
    Tensor end_want = hidden_want;
    Tensor end_got = hidden_want;
    Tensor out_want(dtype_, {tokens, hidden});
    Tensor out_got = out_want;
    reference_->MlpDown({reference_.View(act_want), down.reference, reference_.View(out_want),
                         finish ? reference_.View(end_want) : TensorView(), reference_.View(norm1),
                         0.7F, 1e-6F});
    peer_->MlpDown({peer_.View(act_want), down.peer, peer_.View(out_got),
                    finish ? peer_.View(end_got) : TensorView(), peer_.View(norm1), 0.7F, 1e-6F});
    peer_.Fetch();
    ExpectClose(out_got, out_want, "out");
    ExpectClose(end_got, end_want, "end");
  }
}

TEST_P(ConformanceTest, MoeFromRouterToCombine) {
  const int64_t tokens = Between(1, 40);
  const int64_t hidden = Width(16, 120);
  const int64_t width = Width(2, 90);
  const int64_t dense_width = Width(2, 90);
  const int64_t num_experts = Between(4, 24);
  const int64_t top_k = Between(1, 4);
  const Tensor attention = Random({tokens, hidden});
  const Tensor norm = RandomNorm(hidden);
  const Tensor norm2 = RandomNorm(hidden);
  const Tensor scale = RandomNorm(hidden);
  const Tensor expert_scale = RandomNorm(num_experts);
  // A wide spread keeps choices apart, so that they can be compared exactly.
  const Tensor router_values = Random({num_experts, hidden}, 3);
  const PackedWeight router_reference = reference_->Pack(router_values.view(), FormatOf(dtype_));
  const PackedWeight router_peer = peer_->Pack(router_values.view(), FormatOf(dtype_));
  Tensor hidden_want = Random({tokens, hidden});
  Tensor hidden_got = hidden_want;

  struct Outputs {
    Tensor dense_in, expert_in, ids, weights;
  };

  const auto make = [&] {
    return Outputs{Tensor(dtype_, {tokens, hidden}), Tensor(dtype_, {tokens, hidden}),
                   Tensor(DType::kI32, {tokens, top_k}), Tensor(DType::kF32, {tokens, top_k})};
  };
  Outputs want = make();
  Outputs got = make();
  const auto route = [&](Side& side, Tensor& residual, const PackedWeight& router, Outputs& out) {
    return NormRouterTopKArgs{side.View(residual),
                              side.View(attention),
                              side.View(norm),
                              side.View(norm),
                              side.View(norm2),
                              side.View(scale),
                              router,
                              side.View(expert_scale),
                              1e-6F,
                              side.View(out.dense_in),
                              side.View(out.expert_in),
                              side.View(out.ids),
                              side.View(out.weights)};
  };
  reference_->NormRouterTopK(route(reference_, hidden_want, router_reference, want));
  peer_->NormRouterTopK(route(peer_, hidden_got, router_peer, got));
  peer_.Fetch();
  ExpectClose(hidden_got, hidden_want, "hidden");
  ExpectClose(got.expert_in, want.expert_in, "expert_in");
  if (dtype_ == DType::kF32) {
    EXPECT_EQ(got.ids.ints(), want.ids.ints());
    ExpectClose(got.weights, want.weights, "weights");
  }

  // From here on both go on from the reference's choices.
  const PackedExperts experts = RandomExperts(num_experts, width, hidden);
  const Packed dense_gate = RandomWeight(dense_width, hidden);
  const Packed dense_up = RandomWeight(dense_width, hidden);
  const Packed dense_down = RandomWeight(hidden, dense_width);
  Tensor act_want(dtype_, {tokens, top_k, width});
  Tensor act_got = act_want;
  Tensor dense_act_want(dtype_, {tokens, dense_width});
  Tensor dense_act_got = dense_act_want;
  reference_->MoeUp({reference_.View(want.expert_in), reference_.View(want.dense_in),
                     reference_.View(want.ids), experts.reference, dense_gate.reference,
                     dense_up.reference, reference_.View(act_want),
                     reference_.View(dense_act_want)});
  peer_->MoeUp({peer_.View(want.expert_in), peer_.View(want.dense_in), peer_.View(want.ids),
                experts.peer, dense_gate.peer, dense_up.peer, peer_.View(act_got),
                peer_.View(dense_act_got)});
  peer_.Fetch();
  ExpectClose(act_got, act_want, "act");
  ExpectClose(dense_act_got, dense_act_want, "dense_act");

  Tensor out_want(dtype_, {tokens, top_k, hidden});
  Tensor out_got = out_want;
  Tensor dense_want(dtype_, {tokens, hidden});
  Tensor dense_got = dense_want;
  reference_->MoeDown({reference_.View(act_want), reference_.View(dense_act_want),
                       reference_.View(want.ids), experts.reference, dense_down.reference,
                       reference_.View(out_want), reference_.View(dense_want)});
  peer_->MoeDown({peer_.View(act_want), peer_.View(dense_act_want), peer_.View(want.ids),
                  experts.peer, dense_down.peer, peer_.View(out_got), peer_.View(dense_got)});
  peer_.Fetch();
  ExpectClose(out_got, out_want, "out");
  ExpectClose(dense_got, dense_want, "dense_out");

  Tensor end_want = hidden_want;
  Tensor end_got = hidden_want;
  const auto combine = [&](Side& side, Tensor& end) {
    return MoeCombineArgs{.hidden = side.View(end),
                          .out = side.View(out_want),
                          .dense_out = side.View(dense_want),
                          .topk_ids = side.View(want.ids),
                          .topk_weights = side.View(want.weights),
                          .num_experts = static_cast<int>(num_experts),
                          .post_norm_1 = side.View(norm),
                          .post_norm_2 = side.View(norm2),
                          .post_norm = side.View(norm),
                          .layer_scalar = 0.8F,
                          .eps = 1e-6F};
  };
  reference_->MoeCombine(combine(reference_, end_want));
  peer_->MoeCombine(combine(peer_, end_got));
  peer_.Fetch();
  ExpectClose(end_got, end_want, "combined");
}

TEST_P(ConformanceTest, PleInject) {
  const int64_t tokens = Between(1, 30);
  const int64_t hidden = Width(2, 150);
  const int64_t ple_size = Width(2, 40);
  const Packed gate = RandomWeight(ple_size, hidden);
  const Packed projection = RandomWeight(hidden, ple_size);
  const Tensor ffn = Random({tokens, hidden});
  const Tensor ple = Random({tokens, 3 * ple_size});
  const Tensor norm = RandomNorm(hidden);
  const Tensor norm2 = RandomNorm(hidden);
  Tensor want = Random({tokens, hidden});
  Tensor got = want;
  reference_->PleInject({reference_.View(want), reference_.View(ffn), reference_.View(norm),
                         gate.reference, reference_.View(ple), 1, projection.reference,
                         reference_.View(norm2), 0.6F, 1e-6F});
  peer_->PleInject({peer_.View(got), peer_.View(ffn), peer_.View(norm), gate.peer, peer_.View(ple),
                    1, projection.peer, peer_.View(norm2), 0.6F, 1e-6F});
  peer_.Fetch();
  ExpectClose(got, want, "hidden");
}

TEST_P(ConformanceTest, KeepRows) {
  const int64_t width = Width(2, 700);
  const Tensor in = Random({9, width});
  Tensor rows(DType::kI32, {3});
  for (int i = 0; i < 3; ++i) {
    rows.view().as<int32_t>()[i] = static_cast<int32_t>(3 * i + Between(0, 2));
  }
  Tensor want(dtype_, {3, width});
  Tensor got = want;
  reference_->KeepRows({reference_.View(in), reference_.View(rows), reference_.View(want)});
  peer_->KeepRows({peer_.View(in), peer_.View(rows), peer_.View(got)});
  peer_.Fetch();
  EXPECT_TRUE(got == want);
}

TEST_P(ConformanceTest, Head) {
  const int64_t hidden = Width(2, 200);
  const Packed weight = RandomWeight(Between(1, 300), hidden);
  const Tensor input = Random({9, hidden}, 4);
  const Tensor norm = RandomNorm(hidden);
  Tensor rows(DType::kI32, {3});
  for (int i = 0; i < 3; ++i) rows.view().as<int32_t>()[i] = 3 * i;
  for (const float cap : {0.0F, 2.5F}) {
    Tensor want(DType::kF32, {3, weight.peer.rows});
    Tensor got = want;
    reference_->Head({reference_.View(input), reference_.View(norm), weight.reference,
                      reference_.View(rows), reference_.View(want), 1e-6F, cap});
    peer_->Head({peer_.View(input), peer_.View(norm), weight.peer, peer_.View(rows),
                 peer_.View(got), 1e-6F, cap});
    peer_.Fetch();
    ExpectClose(got, want, "logits");
  }
}

// Equal logits give equal tokens: exactly, whatever is filtered.
TEST_P(ConformanceTest, Sample) {
  const int64_t vocab = Between(2, 600);
  Tensor logits(DType::kF32, {4, vocab});
  std::normal_distribution<float> normal(0, 4);
  // Coarse values, so that ties occur.
  for (int64_t i = 0; i < logits.size(); ++i) {
    logits.view().as<float>()[i] = std::round(normal(random_) * 4) / 4;
  }
  const std::vector<SampleRow::Seen> seen = {{0, 2}, {1, 0}};
  const std::vector<SampleRow::Bias> bias = {{1, 3.5F}};
  const std::vector<int32_t> barred = {0};
  std::vector<uint32_t> mask(static_cast<size_t>(vocab / 32 + 1));
  for (uint32_t& word : mask) word = static_cast<uint32_t>(random_());
  mask[0] |= 2;  // Never bars everything.
  std::vector<SampleRow> rows;
  for (int i = 0; i < 60; ++i) {
    SampleRow row{.logits_row = static_cast<int32_t>(Between(0, 3)),
                  .temperature = Between(0, 4) * 0.5F,
                  .seed = random_(),
                  .position = Between(0, 1 << 20),
                  .num_logprobs = static_cast<int32_t>(Between(0, 3))};
    if (Between(0, 1) == 1) row.top_k = static_cast<int32_t>(Between(1, 700));
    if (Between(0, 1) == 1) row.top_p = static_cast<float>(Between(1, 10)) / 10;
    if (Between(0, 1) == 1) row.min_p = static_cast<float>(Between(0, 10)) / 20;
    if (Between(0, 1) == 1) {
      row.seen = seen;
      row.repetition_penalty = 1.3F;
      row.presence_penalty = 0.5F;
      row.frequency_penalty = -0.25F;
    }
    if (Between(0, 1) == 1) row.bias = bias;
    if (Between(0, 1) == 1) row.barred = barred;
    if (Between(0, 1) == 1) row.mask = mask;
    rows.push_back(row);
  }
  // Slot 2 i is row i's; what nobody draws for stays as it was.
  Tensor want_last(DType::kI32, {2 * std::ssize(rows)});
  for (int32_t i = 0; i < want_last.size(); ++i) want_last.view().as<int32_t>()[i] = 1000 + i;
  for (size_t i = 0; i < rows.size(); i += 2) rows[i].slot = static_cast<int32_t>(2 * i);
  Tensor got_last = want_last;
  const std::vector<SampledToken> want = reference_.Sample(logits, rows, want_last);
  const std::vector<SampledToken> got = peer_.Sample(logits, rows, got_last);
  EXPECT_EQ(got_last.ints(), want_last.ints());
  ASSERT_EQ(got.size(), rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    ASSERT_EQ(got[i].id, want[i].id) << "row " << i << ", temperature " << rows[i].temperature;
    EXPECT_EQ(got[i].top_ids, want[i].top_ids);
    EXPECT_NEAR(got[i].logprob, want[i].logprob, 1e-5);
  }
}

TEST_P(ConformanceTest, SampleFlagsLogitsThatAreNotFinite) {
  Tensor logits(DType::kF32, {2, 40});
  logits.view().as<float>()[40 + 17] = std::nanf("");
  const std::vector<SampleRow> rows = {{.logits_row = 0, .slot = 0}, {.logits_row = 1, .slot = 1}};
  for (Side* side : {&reference_, &peer_}) {
    Tensor last(DType::kI32, {2});
    last.view().as<int32_t>()[1] = 17;
    const std::vector<SampledToken> tokens = side->Sample(logits, rows, last);
    EXPECT_EQ(last.ints(), (std::vector<int32_t>{tokens[0].id, 17}));
    EXPECT_TRUE(tokens[0].finite);
    EXPECT_FALSE(tokens[1].finite);
    EXPECT_EQ(tokens[1].id, -1);
  }
}

INSTANTIATE_TEST_SUITE_P(Peers, ConformanceTest, testing::ValuesIn(AllSettings()), NameOfSetting);

}  // namespace
}  // namespace facet::kernels
