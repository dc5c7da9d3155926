// MoeUp and MoeDown under choices of experts that random ones seldom are, and under those of
// several layers and steps in the same memory.
#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <numeric>

#include "tests/conformance/conformance_case.h"

namespace facet::kernels {
namespace {

class MoeRoutingTest : public ConformanceTest {
 protected:
  // Experts, and a dense path that has no rows.
  struct Layer {
    int64_t hidden, width;
    PackedExperts experts;
    Packed gate, up, down;
  };

  Layer RandomLayer(int64_t num_experts, int64_t hidden, int64_t width) {
    return {.hidden = hidden,
            .width = width,
            .experts = RandomExperts(num_experts, width, hidden),
            .gate = RandomWeight(width, hidden),
            .up = RandomWeight(width, hidden),
            .down = RandomWeight(hidden, width)};
  }

  const std::vector<ExpertWeights>& ExpertsOn(const Side& side, const Layer& layer) const {
    return &side == &peer_ ? layer.experts.peer : layer.experts.reference;
  }

  struct Views {
    ConstTensorView in;        // [num_rows, hidden]
    ConstTensorView topk_ids;  // [num_rows, top_k]
    TensorView act;            // [num_rows, top_k, width]
    TensorView out;            // [num_rows, top_k, hidden]
  };

  void Up(Side& side, const Layer& layer, const Views& views) {
    side->MoeUp({.expert_in = views.in,
                 .dense_in = TensorView(nullptr, dtype_, {0, layer.hidden}),
                 .topk_ids = views.topk_ids,
                 .experts = ExpertsOn(side, layer),
                 .dense_gate = On(side, layer.gate),
                 .dense_up = On(side, layer.up),
                 .act = views.act,
                 .dense_act = TensorView(nullptr, dtype_, {0, layer.width})});
  }

  void Down(Side& side, const Layer& layer, const Views& views, bool after_up) {
    side->MoeDown({.act = views.act,
                   .dense_act = TensorView(nullptr, dtype_, {0, layer.width}),
                   .topk_ids = views.topk_ids,
                   .experts = ExpertsOn(side, layer),
                   .dense_down = On(side, layer.down),
                   .out = views.out,
                   .dense_out = TensorView(nullptr, dtype_, {0, layer.hidden}),
                   .after_up = after_up});
  }

  // What both ops write; where there is no expert, ones stay.
  struct Outputs {
    Tensor act, out;
  };

  Outputs UpAndDown(Side& side, const Layer& layer, const Tensor& in, const Tensor& ids) {
    const int64_t rows = ids.view().dim(0);
    const int64_t top_k = ids.view().dim(1);
    Outputs outputs{Tensor(dtype_, {rows, top_k, layer.width}),
                    Tensor(dtype_, {rows, top_k, layer.hidden})};
    for (Tensor* tensor : {&outputs.act, &outputs.out}) {
      for (int64_t i = 0; i < tensor->size(); ++i) tensor->set(i, 1);
    }
    const Views views{side.View(in), side.View(ids), side.View(outputs.act),
                      side.View(outputs.out)};
    Up(side, layer, views);
    Down(side, layer, views, /*after_up=*/true);
    side.Fetch();
    return outputs;
  }

  // The order in which a row has different experts.
  std::vector<int32_t> Shuffled(int64_t num_experts) {
    std::vector<int32_t> experts(static_cast<size_t>(num_experts));
    std::iota(experts.begin(), experts.end(), 0);
    std::shuffle(experts.begin(), experts.end(), random_);
    return experts;
  }

  Tensor RandomChoices(int64_t rows, int64_t top_k, int64_t num_experts) {
    Tensor ids(DType::kI32, {rows, top_k});
    for (int64_t r = 0; r < rows; ++r) {
      std::copy_n(Shuffled(num_experts).begin(), top_k, ids.view().as<int32_t>() + r * top_k);
    }
    return ids;
  }
};

// Row r alone of a tensor of rows.
Tensor RowOf(const Tensor& tensor, int64_t r) {
  const ConstTensorView all = tensor.view();
  Tensor row = all.rank() == 2 ? Tensor(all.dtype(), {1, all.dim(1)})
                               : Tensor(all.dtype(), {1, all.dim(1), all.dim(2)});
  std::memcpy(row.view().raw(), static_cast<const std::byte*>(all.raw()) + r * row.num_bytes(),
              static_cast<size_t>(row.num_bytes()));
  return row;
}

TEST_P(MoeRoutingTest, MoeUpAndDownOfAnyChoices) {
  struct Choices {
    const char* what;
    int64_t rows, top_k, num_experts;
    std::function<void(Tensor& ids)> change;  // Of random ones.
  };

  const auto all_are = [](int32_t id) {
    return [id](Tensor& ids) { std::fill_n(ids.view().as<int32_t>(), ids.size(), id); };
  };
  const auto third_of_last = [](Tensor& ids) {
    for (int64_t i = 0; i < ids.size(); ++i) ids.view().as<int32_t>()[i] = i % 3 == 0 ? 11 : -1;
  };
  const auto none = [](Tensor&) {};
  const Choices all_choices[] = {
      {"one expert has all", Between(100, 200), 1, 7, all_are(3)},
      {"the last expert has a third, nobody the rest", Between(1, 60), 4, 12, third_of_last},
      {"nobody has any", Between(1, 60), 2, 5, all_are(-1)},
      {"one for each thread of a CTA, and some", Between(260, 300), 4, 20, none},
      {"as many experts as there may be", Between(1, 40), 8, 512, none},
  };
  for (const Choices& choices : all_choices) {
    SCOPED_TRACE(choices.what);
    const Layer layer = RandomLayer(choices.num_experts, Width(16, 40), Width(2, 30));
    const Tensor in = Random({choices.rows, layer.hidden});
    Tensor ids = RandomChoices(choices.rows, choices.top_k, choices.num_experts);
    choices.change(ids);
    const Outputs want = UpAndDown(reference_, layer, in, ids);
    const Outputs got = UpAndDown(peer_, layer, in, ids);
    ExpectClose(got.act, want.act, "act");
    ExpectClose(got.out, want.out, "out");
    // Bits of a row are those that it has alone.
    const int64_t r = Between(0, choices.rows - 1);
    const Outputs alone = UpAndDown(peer_, layer, RowOf(in, r), RowOf(ids, r));
    EXPECT_TRUE(alone.act == RowOf(got.act, r)) << "row " << r;
    EXPECT_TRUE(alone.out == RowOf(got.out, r)) << "row " << r;
  }
}

// Before any MoeUp, and after one with other choices.
TEST_P(MoeRoutingTest, MoeDownByItself) {
  const int64_t rows = Between(1, 50);
  const Layer layer = RandomLayer(9, Width(16, 40), Width(2, 30));
  const Tensor act = Random({rows, 3, layer.width});
  for (const bool up_before : {false, true}) {
    const Tensor in = Random({rows, layer.hidden});
    const Tensor ids_before = RandomChoices(rows, 3, 9);
    if (up_before) UpAndDown(peer_, layer, in, ids_before);
    const Tensor ids = RandomChoices(rows, 3, 9);
    Tensor want(dtype_, {rows, 3, layer.hidden});
    Tensor got = want;
    for (Side* side : {&reference_, &peer_}) {
      Tensor act_here = act;
      Down(*side, layer,
           {.topk_ids = side->View(ids),
            .act = side->View(act_here),
            .out = side->View(side == &peer_ ? got : want)},
           /*after_up=*/false);
      side->Fetch();
    }
    ExpectClose(got, want, "out");
  }
}

// The layers of a step have their choices at one address, one after the other, as a model has them.
// Where the peer records, the last two steps are played (graph_cache.h).
TEST_P(MoeRoutingTest, EachLayerOfEachStepGoesByItsOwnChoices) {
  constexpr int64_t kLayers = 2;
  constexpr int64_t kTopK = 3;
  constexpr int64_t kNumExperts = 16;
  const int64_t rows = Between(1, 20);
  const int64_t hidden = Width(16, 40);
  const int64_t width = Width(2, 30);
  const MoeRowLayout layout(dtype_, hidden, kTopK);
  const int64_t words = layout.Blocks(rows).block_bytes() / SizeOf(DType::kI32);
  const std::array<Layer, kLayers> layers = {RandomLayer(kNumExperts, hidden, width),
                                             RandomLayer(kNumExperts, hidden, width)};

  // A block of rows with their choices, from which MoeUnpack writes both.
  const auto random_block = [&] {
    Tensor block(DType::kI32, {1, words});
    Tensor places(DType::kI32, {rows, 1});
    std::vector<int64_t> expert_tokens(kNumExperts);
    const Tensor in = Random({rows, hidden});
    const Tensor ids = RandomChoices(rows, kTopK, kNumExperts);
    const Tensor weights(DType::kF32, {rows, kTopK});
    reference_->MoePack({.expert_in = in.view(),
                         .topk_ids = ids.view(),
                         .topk_weights = weights.view(),
                         .num_experts = kNumExperts,
                         .capacity = rows,
                         .blocks = block.view(),
                         .places = places.view(),
                         .expert_tokens = expert_tokens.data()});
    return block.ints();
  };

  // Memory that stays from step to step.
  struct Memory {
    Buffer in, ids, weights, act;
    std::array<Buffer, kLayers> out;
  };

  const int64_t element = SizeOf(dtype_);
  const auto allocate = [&](Side& side) {
    Memory memory{.in = side->Allocate(rows * hidden * element),
                  .ids = side->Allocate(rows * kTopK * SizeOf(DType::kI32)),
                  .weights = side->Allocate(rows * kTopK * SizeOf(DType::kF32)),
                  .act = side->Allocate(rows * kTopK * width * element)};
    for (Buffer& out : memory.out) out = side->Allocate(rows * kTopK * hidden * element);
    return memory;
  };
  using Blocks = std::array<std::vector<int32_t>, kLayers>;
  const auto run_step = [&](Side& side, const Memory& memory, const Blocks& blocks) {
    side->BeginStep();
    std::array<ConstTensorView, kLayers> staged;
    for (int l = 0; l < kLayers; ++l) {
      staged[l] = ConstTensorView(side->StageInts(blocks[l]).raw(), DType::kI32, {1, words});
    }
    side->SendStaged();
    side->RunRecorded({}, [&] {
      for (int l = 0; l < kLayers; ++l) {
        const TensorView in(memory.in.data(), dtype_, {rows, hidden});
        const TensorView ids(memory.ids.data(), DType::kI32, {rows, kTopK});
        side->MoeUnpack(
            {.blocks = staged[l],
             .capacity = rows,
             .num_experts_here = kNumExperts,
             .rows = in,
             .topk_ids = ids,
             .topk_weights = TensorView(memory.weights.data(), DType::kF32, {rows, kTopK})});
        const Views views{.in = in,
                          .topk_ids = ids,
                          .act = TensorView(memory.act.data(), dtype_, {rows, kTopK, width}),
                          .out = TensorView(memory.out[l].data(), dtype_, {rows, kTopK, hidden})};
        Up(side, layers[l], views);
        Down(side, layers[l], views, /*after_up=*/true);
      }
    });
    side->EndStep()->Wait();
    std::vector<Tensor> out(kLayers, Tensor(dtype_, {rows, kTopK, hidden}));
    for (int l = 0; l < kLayers; ++l) {
      side->CopyToHost(out[l].view().raw(), memory.out[l].data(), out[l].num_bytes());
    }
    return out;
  };

  const Memory memory_reference = allocate(reference_);
  const Memory memory_peer = allocate(peer_);
  for (int step = 0; step < 5; ++step) {
    const Blocks blocks = {random_block(), random_block()};
    const std::vector<Tensor> want = run_step(reference_, memory_reference, blocks);
    const std::vector<Tensor> got = run_step(peer_, memory_peer, blocks);
    for (int l = 0; l < kLayers; ++l) ExpectClose(got[l], want[l], "out");
  }
}

INSTANTIATE_TEST_SUITE_P(Peers, MoeRoutingTest, testing::ValuesIn(AllSettings()), NameOfSetting);

}  // namespace
}  // namespace facet::kernels
