// MoeUp and MoeDown under choices of experts that random ones seldom are.
#include <algorithm>
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

  void Down(Side& side, const Layer& layer, const Views& views) {
    side->MoeDown({.act = views.act,
                   .dense_act = TensorView(nullptr, dtype_, {0, layer.width}),
                   .topk_ids = views.topk_ids,
                   .experts = ExpertsOn(side, layer),
                   .dense_down = On(side, layer.down),
                   .out = views.out,
                   .dense_out = TensorView(nullptr, dtype_, {0, layer.hidden})});
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
    Down(side, layer, views);
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
  const Choices kChoices[] = {
      {"one expert has all", Between(100, 200), 1, 7, all_are(3)},
      {"the last expert has a third, nobody the rest", Between(1, 60), 4, 12, third_of_last},
      {"nobody has any", Between(1, 60), 2, 5, all_are(-1)},
      {"one for each thread of a CTA, and some", Between(260, 300), 4, 20, none},
      {"as many experts as there may be", Between(1, 40), 8, 512, none},
  };
  for (const Choices& choices : kChoices) {
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
            .out = side->View(side == &peer_ ? got : want)});
      side->Fetch();
    }
    ExpectClose(got, want, "out");
  }
}

INSTANTIATE_TEST_SUITE_P(Peers, MoeRoutingTest, testing::ValuesIn(AllSettings()), NameOfSetting);

}  // namespace
}  // namespace facet::kernels
