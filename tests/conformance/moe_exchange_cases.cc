// The ops that ranks sharing experts add to a MoE layer. They move rows and add in one order, so
// that every peer's results are the reference's bits.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "tests/conformance/conformance_case.h"

namespace facet::kernels {
namespace {

constexpr int64_t kNumExperts = 24;  // Three in a slice.
constexpr int64_t kTopK = 5;

class MoeExchangeTest : public ConformanceTest {
 protected:
  // Different experts for each token.
  Tensor RandomChoices(int64_t tokens) {
    Tensor ids(DType::kI32, {tokens, kTopK});
    std::vector<int32_t> experts(kNumExperts);
    std::iota(experts.begin(), experts.end(), 0);
    for (int64_t t = 0; t < tokens; ++t) {
      std::shuffle(experts.begin(), experts.end(), random_);
      std::copy_n(experts.begin(), kTopK, ids.view().as<int32_t>() + t * kTopK);
    }
    return ids;
  }

  // Positive, as the router's are.
  Tensor RandomTopkWeights(int64_t rows) {
    Tensor weights(DType::kF32, {rows, kTopK});
    for (int64_t i = 0; i < weights.size(); ++i) {
      weights.view().as<float>()[i] = static_cast<float>(Between(1, 1000)) / 1000;
    }
    return weights;
  }

  struct Step {
    Tensor expert_in, ids, weights;
    int64_t capacity;
  };

  Step RandomStep(int64_t tokens, int64_t hidden) {
    return {.expert_in = Random({tokens, hidden}),
            .ids = RandomChoices(tokens),
            .weights = RandomTopkWeights(tokens),
            .capacity = tokens + Between(1, 3)};
  }

  struct Sent {
    Tensor blocks, places, expert_tokens;

    bool operator==(const Sent& other) const {
      return blocks == other.blocks && places == other.places &&
             expert_tokens == other.expert_tokens;
    }
  };

  Sent Pack(Side& side, const Step& step, int64_t num_ranks, MoeDispatch form) {
    const int64_t tokens = step.expert_in.view().dim(0);
    const MoeRowLayout layout(dtype_, step.expert_in.view().dim(1), kTopK);
    const int64_t words = layout.Blocks(step.capacity).block_bytes() / 4;
    const int64_t num_blocks = form == MoeDispatch::kAllGather ? 1 : num_ranks;
    Sent sent{Tensor(DType::kI32, {num_blocks, words}), Tensor(DType::kI32, {tokens, num_ranks}),
              Tensor(DType::kI32, {kNumExperts, 2})};
    // What has no meaning stays as it was, and totals go on.
    for (int64_t i = 0; i < sent.blocks.size(); ++i) {
      sent.blocks.view().as<int32_t>()[i] = static_cast<int32_t>(1000 + i);
    }
    for (int64_t e = 0; e < kNumExperts; ++e) sent.expert_tokens.view().as<int32_t>()[2 * e] = 7;
    side->MoePack({.expert_in = side.View(step.expert_in),
                   .topk_ids = side.View(step.ids),
                   .topk_weights = side.View(step.weights),
                   .num_experts = kNumExperts,
                   .form = form,
                   .capacity = step.capacity,
                   .blocks = side.View(sent.blocks),
                   .places = side.View(sent.places),
                   .expert_tokens = static_cast<int64_t*>(side.View(sent.expert_tokens).raw())});
    side.Fetch();
    return sent;
  }
};

TEST_P(MoeExchangeTest, MoePack) {
  const int64_t hidden = Width(2, 300);
  for (const int64_t num_ranks : {1, 2, 4, 8}) {
    for (const MoeDispatch form : {MoeDispatch::kAllToAll, MoeDispatch::kAllGather}) {
      for (const int64_t tokens : {int64_t{0}, Between(1, 90)}) {
        const Step step = RandomStep(tokens, hidden);
        EXPECT_TRUE(Pack(peer_, step, num_ranks, form) == Pack(reference_, step, num_ranks, form))
            << num_ranks << " ranks, " << tokens << " tokens";
      }
    }
  }
}

// What MoePack sends is what the tokens are, by a count of its own.
TEST_P(MoeExchangeTest, MoePackSendsATokenOnceToEachRankThatItConcerns) {
  const int64_t tokens = Between(1, 60);
  const int64_t hidden = Width(2, 40);
  const Step step = RandomStep(tokens, hidden);
  const int64_t num_ranks = int64_t{1} << Between(0, 3);
  const Sent sent = Pack(peer_, step, num_ranks, MoeDispatch::kAllToAll);
  const MoeRowLayout layout(dtype_, hidden, kTopK);
  const BlockLayout block = layout.Blocks(step.capacity);
  const auto* bytes = static_cast<const std::byte*>(sent.blocks.view().raw());
  for (int64_t rank = 0; rank < num_ranks; ++rank) {
    int32_t next = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      const std::vector<int32_t> ids = step.ids.ints();
      const bool concerned = std::any_of(
          ids.begin() + t * kTopK, ids.begin() + (t + 1) * kTopK,
          [&](int32_t id) { return SliceOf(id, kNumExperts) * num_ranks / kExpertSlices == rank; });
      ASSERT_EQ(sent.places.ints()[t * num_ranks + rank], concerned ? next : -1);
      if (!concerned) continue;
      const std::byte* row = bytes + rank * block.block_bytes() + block.RowOffset(next++);
      const int64_t hidden_bytes = hidden * SizeOf(dtype_);
      const auto* from = static_cast<const std::byte*>(step.expert_in.view().raw());
      EXPECT_EQ(std::memcmp(row, from + t * hidden_bytes, hidden_bytes), 0);
      EXPECT_EQ(std::memcmp(row + layout.ids_offset, ids.data() + t * kTopK, 4 * kTopK), 0);
      std::vector<float> weights(kTopK);
      std::memcpy(weights.data(), row + layout.weights_offset, 4 * kTopK);
      EXPECT_TRUE(std::equal(weights.begin(), weights.end(),
                             std::as_const(step.weights).view().as<float>() + t * kTopK));
    }
    int32_t count = 0;
    std::memcpy(&count, bytes + rank * block.block_bytes(), sizeof count);
    EXPECT_EQ(count, next);
  }
  int64_t chosen = 0;
  for (int64_t e = 0; e < kNumExperts; ++e) chosen += sent.expert_tokens.ints()[2 * e] - 7;
  EXPECT_EQ(chosen, tokens * kTopK);
}

TEST_P(MoeExchangeTest, MoeUnpack) {
  const int64_t hidden = Width(2, 300);
  for (const int64_t num_ranks : {1, 2, 4, 8}) {
    const int64_t capacity = Between(2, 40);
    const int64_t me = Between(0, num_ranks - 1);
    const MoeRowLayout layout(dtype_, hidden, kTopK);
    const int64_t words = layout.Blocks(capacity).block_bytes() / 4;
    Tensor received(DType::kI32, {num_ranks, words});
    for (int64_t from = 0; from < num_ranks; ++from) {
      Step step = RandomStep(from == 0 ? 0 : Between(0, capacity), hidden);
      step.capacity = capacity;
      const bool gather = from % 2 == 1;  // Both forms arrive alike.
      const Sent sent = Pack(reference_, step, num_ranks,
                             gather ? MoeDispatch::kAllGather : MoeDispatch::kAllToAll);
      int32_t* block = received.view().as<int32_t>() + from * words;
      std::copy_n(sent.blocks.view().as<int32_t>() + (gather ? 0 : me * words), words, block);
      // Counts that no block holds.
      if (from == 2) *block = -5;
      if (from == 3) *block = static_cast<int32_t>(capacity) + 9;
    }
    const int64_t num_rows = num_ranks * capacity;
    Tensor rows_want = Random({num_rows, hidden});
    Tensor rows_got = rows_want;
    Tensor ids_want(DType::kI32, {num_rows, kTopK});
    Tensor ids_got = ids_want;
    Tensor weights_want = RandomTopkWeights(num_rows);
    Tensor weights_got = weights_want;
    const auto unpack = [&](Side& side, Tensor& rows, Tensor& ids, Tensor& weights) {
      side->MoeUnpack({.blocks = side.View(std::as_const(received)),
                       .capacity = capacity,
                       .first_expert = static_cast<int>(me * kNumExperts / num_ranks),
                       .num_experts_here = static_cast<int>(kNumExperts / num_ranks),
                       .rows = side.View(rows),
                       .topk_ids = side.View(ids),
                       .topk_weights = side.View(weights)});
      side.Fetch();
    };
    unpack(reference_, rows_want, ids_want, weights_want);
    unpack(peer_, rows_got, ids_got, weights_got);
    EXPECT_EQ(ids_got.ints(), ids_want.ints()) << num_ranks << " ranks";
    EXPECT_TRUE(rows_got == rows_want) << num_ranks << " ranks";
    EXPECT_TRUE(weights_got == weights_want) << num_ranks << " ranks";
  }
}

// Ids of -1, and either part alone, as ranks that share experts call MoeUp and MoeDown.
TEST_P(MoeExchangeTest, MoeUpAndDownOfSomeExpertsOrOfTheDensePathAlone) {
  const int64_t hidden = Width(16, 120);
  const int64_t width = Width(2, 90);
  constexpr int64_t kExpertsHere = 6;
  const PackedExperts random_experts = RandomExperts(kExpertsHere, width, hidden);
  const Packed gate = RandomWeight(width, hidden);
  const Packed up = RandomWeight(width, hidden);
  const Packed down = RandomWeight(hidden, width);

  struct Sizes {
    int64_t rows, tokens;
  };

  for (const Sizes& sizes :
       {Sizes{Between(1, 60), 0}, Sizes{0, Between(1, 40)}, Sizes{Between(1, 60), 3}}) {
    const Tensor expert_in = Random({sizes.rows, hidden});
    const Tensor dense_in = Random({sizes.tokens, hidden});
    Tensor ids = RandomChoices(sizes.rows);
    for (int64_t i = 0; i < ids.size(); ++i) {
      int32_t& id = ids.view().as<int32_t>()[i];
      if (id >= kExpertsHere) id = -1;
    }
    Tensor act_want = Random({sizes.rows, kTopK, width});
    Tensor act_got = act_want;
    Tensor dense_act_want = Random({sizes.tokens, width});
    Tensor dense_act_got = dense_act_want;
    Tensor out_want = Random({sizes.rows, kTopK, hidden});
    Tensor out_got = out_want;
    Tensor dense_want = Random({sizes.tokens, hidden});
    Tensor dense_got = dense_want;
    const auto run = [&](Side& side, const std::vector<ExpertWeights>& experts, Tensor& act,
                         Tensor& dense_act, Tensor& out, Tensor& dense_out) {
      const TensorView act_view = side.View(act);
      const TensorView dense_act_view = side.View(dense_act);
      const ConstTensorView ids_view = side.View(std::as_const(ids));
      side->MoeUp({.expert_in = side.View(expert_in),
                   .dense_in = side.View(dense_in),
                   .topk_ids = ids_view,
                   .experts = experts,
                   .dense_gate = On(side, gate),
                   .dense_up = On(side, up),
                   .act = act_view,
                   .dense_act = dense_act_view});
      side->MoeDown({.act = act_view,
                     .dense_act = dense_act_view,
                     .topk_ids = ids_view,
                     .experts = experts,
                     .dense_down = On(side, down),
                     .out = side.View(out),
                     .dense_out = side.View(dense_out)});
      side.Fetch();
    };
    run(reference_, random_experts.reference, act_want, dense_act_want, out_want, dense_want);
    run(peer_, random_experts.peer, act_got, dense_act_got, out_got, dense_got);
    ExpectClose(act_got, act_want, "act");
    ExpectClose(dense_act_got, dense_act_want, "dense_act");
    ExpectClose(out_got, out_want, "out");
    ExpectClose(dense_got, dense_want, "dense_out");
  }
}

// The experts' outputs of a step, summed where they are and combined at home, by any number of
// ranks: bits are those of one process.
TEST_P(MoeExchangeTest, SlicesOfAnyNumberOfRanksCombineAsInOneProcess) {
  const int64_t tokens = Between(1, 30);
  const int64_t hidden = Width(2, 120);
  const Step step = RandomStep(tokens, hidden);
  const Tensor out = Random({tokens, kTopK, hidden});
  const Tensor dense_out = Random({tokens, hidden});
  const Tensor norm = RandomNorm(hidden);
  const Tensor norm2 = RandomNorm(hidden);
  const Tensor before = Random({tokens, hidden});
  Tensor want = before;
  peer_->MoeCombine({.hidden = peer_.View(want),
                     .out = peer_.View(out),
                     .dense_out = peer_.View(dense_out),
                     .topk_ids = peer_.View(step.ids),
                     .topk_weights = peer_.View(step.weights),
                     .num_experts = kNumExperts,
                     .post_norm_1 = peer_.View(norm),
                     .post_norm_2 = peer_.View(norm2),
                     .post_norm = peer_.View(norm),
                     .layer_scalar = 0.8F,
                     .eps = 1e-6F});
  peer_.Fetch();
  for (const int64_t num_ranks : {1, 2, 4, 8}) {
    for (const MoeDispatch form : {MoeDispatch::kAllToAll, MoeDispatch::kAllGather}) {
      const Sent sent = Pack(reference_, step, num_ranks, form);
      const int64_t slices = kExpertSlices / num_ranks;
      const int64_t experts_here = kNumExperts / num_ranks;
      Tensor received(dtype_, {step.capacity * kExpertSlices, hidden});
      for (int64_t rank = 0; rank < num_ranks; ++rank) {
        // This rank's rows, at their places in the block that it got.
        Tensor out_here = Random({step.capacity, kTopK, hidden});
        Tensor ids_here(DType::kI32, {step.capacity, kTopK});
        std::fill_n(ids_here.view().as<int32_t>(), ids_here.size(), -1);
        Tensor weights_here = RandomTopkWeights(step.capacity);
        for (int64_t t = 0; t < tokens; ++t) {
          const int64_t row = sent.places.ints()[t * num_ranks + rank];
          if (row < 0) continue;
          for (int64_t j = 0; j < kTopK; ++j) {
            const int64_t local = step.ids.ints()[t * kTopK + j] - rank * experts_here;
            if (local < 0 || local >= experts_here) continue;
            ids_here.view().as<int32_t>()[row * kTopK + j] = static_cast<int32_t>(local);
            weights_here.view().as<float>()[row * kTopK + j] =
                step.weights.view().as<float>()[t * kTopK + j];
            for (int64_t i = 0; i < hidden; ++i) {
              out_here.set((row * kTopK + j) * hidden + i, out.at((t * kTopK + j) * hidden + i));
            }
          }
        }
        Tensor sums = Random({step.capacity, slices, hidden});
        Tensor sums_reference = sums;
        for (Side* side : {&peer_, &reference_}) {
          (*side)->MoeSliceSums({.out = side->View(std::as_const(out_here)),
                                 .topk_ids = side->View(std::as_const(ids_here)),
                                 .topk_weights = side->View(std::as_const(weights_here)),
                                 .num_experts_here = static_cast<int>(experts_here),
                                 .sums = side->View(side == &peer_ ? sums : sums_reference)});
          side->Fetch();
        }
        EXPECT_TRUE(sums == sums_reference) << num_ranks << " ranks";
        const int64_t block_bytes = step.capacity * slices * hidden * SizeOf(dtype_);
        std::memcpy(static_cast<std::byte*>(received.view().raw()) + rank * block_bytes,
                    sums.view().raw(), static_cast<size_t>(block_bytes));
      }
      Tensor got = before;
      Tensor got_reference = before;
      for (Side* side : {&peer_, &reference_}) {
        (*side)->MoeCombineSlices({.hidden = side->View(side == &peer_ ? got : got_reference),
                                   .sums = side->View(std::as_const(received)),
                                   .dense_out = side->View(dense_out),
                                   .topk_ids = side->View(step.ids),
                                   .places = side->View(sent.places),
                                   .num_experts = kNumExperts,
                                   .capacity = step.capacity,
                                   .post_norm_1 = side->View(norm),
                                   .post_norm_2 = side->View(norm2),
                                   .post_norm = side->View(norm),
                                   .layer_scalar = 0.8F,
                                   .eps = 1e-6F});
        side->Fetch();
      }
      EXPECT_TRUE(got == want) << num_ranks << " ranks";
      ExpectClose(got, got_reference, "combined");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Peers, MoeExchangeTest, testing::ValuesIn(AllSettings()), NameOfSetting);

}  // namespace
}  // namespace facet::kernels
