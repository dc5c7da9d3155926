// The CUDA attention, on the emulator or a GPU, against the reference and against itself.
//
// Tolerance to the reference: both round at the same places, but a sum near a rounding border may
// fall on either side and the weights of the values are rounded to bf16 before their product: 2.5
// bf16 steps of the output's scale, as for every op in bf16 (conformance_test.cc). Against itself,
// with a sequence cut into other chunks, batched with others or replayed, bits are equal.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/reference/reference_backend.h"
#include "tests/conformance/execution_order.h"
#include "tests/conformance/fast_library.h"

namespace facet::kernels {
namespace {

struct Shape {
  int head_dim = 16;
  int num_kv_heads = 1;
  int group = 1;
  int64_t window = 0;
  bool k_eq_v = false;
  bool has_kv = true;

  int QHeads() const { return num_kv_heads * group; }

  int Width() const {
    return (QHeads() + (!has_kv ? 0 : k_eq_v ? 1 : 2) * num_kv_heads) * head_dim;
  }

  int OutWidth() const { return QHeads() * head_dim; }

  int64_t BlockElements() const { return int64_t{2} * num_kv_heads * kBlockTokens * head_dim; }
};

void PrintTo(const Shape& shape, std::ostream* out) {
  *out << "head_dim " << shape.head_dim << ", kv heads " << shape.num_kv_heads << ", group "
       << shape.group << ", window " << shape.window << ", K=V " << shape.k_eq_v << ", own KV "
       << shape.has_kv;
}

// num_tokens more tokens of a sequence.
struct Feed {
  int sequence = 0;
  int num_tokens = 1;
};

using Step = std::vector<Feed>;

// Sequences of random raw q, k and v, and what both backends' caches hold of them. Positions that
// nobody stored are NaN. With history, that many positions are stored before the first step.
class World {
 public:
  World(const Shape& shape,
        std::vector<int> history,
        int new_tokens_max,
        uint32_t seed,
        const CudaOptions& options = {.compare_replay = ReplayComparison()})
      : shape_(shape), history_(std::move(history)), random_(seed), cuda_(options) {
    inputs_.resize(history_.size());
    int num_blocks = 1;
    for (size_t s = 0; s < history_.size(); ++s) {
      inputs_[s] = Random(int64_t{new_tokens_max} * shape.Width(), 1, 0);
      const int blocks = (history_[s] + new_tokens_max) / kBlockTokens + 1;
      tables_.emplace_back();
      for (int b = 0; b < blocks; ++b) tables_.back().push_back(num_blocks++);
    }
    std::shuffle(tables_.back().begin(), tables_.back().end(), random_);
    // Scores of a few units, so that many keys have a say.
    q_norm_ = Random(shape.head_dim, 0.3F / std::sqrt(static_cast<float>(shape.head_dim)),
                     2 / std::sqrt(static_cast<float>(shape.head_dim)));
    k_norm_ = Random(shape.head_dim, 0.2F, 1);
    for (int i = 0; i < shape.head_dim / 2; ++i) {
      const float exponent = -2.0F * static_cast<float>(i) / static_cast<float>(shape.head_dim);
      inv_freq_.push_back(i % 3 == 2 ? 0 : std::pow(100.0F, exponent));
    }
    start_cache_.assign(num_blocks * shape.BlockElements(), Bf16{0xffff});
    for (size_t s = 0; s < history_.size(); ++s) {
      // Shared KV: the donor has stored this step's positions as well.
      const int stored = history_[s] + (shape.has_kv ? 0 : new_tokens_max);
      for (int position = 0; position < stored; ++position) StoreHistory(s, position);
    }
  }

  // What either backend makes of the steps: outputs of each sequence's new tokens, and the cache.
  struct Result {
    std::vector<std::vector<Bf16>> out;
    std::vector<Bf16> cache;
  };

  Result RunCuda(const std::vector<Step>& steps) { return Run(cuda_, steps); }

  // The same, and no step is a replay of another.
  Result RunCudaUnrecorded(const std::vector<Step>& steps) {
    CudaBackend backend({.record_steps = false});
    return Run(backend, steps);
  }

  Result RunReference(const std::vector<Step>& steps) { return Run(reference_, steps); }

  int64_t num_replays() const { return cuda_.num_replays(); }

 private:
  std::vector<Bf16> Random(int64_t count, float deviation, float mean) {
    std::normal_distribution<float> normal(mean, deviation);
    std::vector<Bf16> values(count);
    for (Bf16& value : values) value = ToBf16(normal(random_));
    return values;
  }

  // Reference and CUDA lay a block out alike.
  void StoreHistory(size_t sequence, int position) {
    std::normal_distribution<float> normal(0, 1);
    Bf16* block =
        start_cache_.data() + tables_[sequence][position / kBlockTokens] * shape_.BlockElements();
    for (int head = 0; head < 2 * shape_.num_kv_heads; ++head) {
      for (int i = 0; i < shape_.head_dim; ++i) {
        block[(head * kBlockTokens + position % kBlockTokens) * shape_.head_dim + i] =
            ToBf16(normal(random_));
      }
    }
  }

  static void CopyTo(Backend& backend, const Buffer& memory, const std::vector<Bf16>& values) {
    const size_t bytes = values.size() * sizeof(Bf16);
    if (const auto* cuda = dynamic_cast<CudaBackend*>(&backend)) {
      // From pageable memory: returns when the values have been read.
      EXPECT_EQ(cudaMemcpyAsync(memory.data(), values.data(), bytes, cudaMemcpyHostToDevice,
                                cuda->stream()),
                cudaSuccess);
    } else {
      std::memcpy(memory.data(), values.data(), bytes);
    }
  }

  static int64_t NumTokensMax(const std::vector<Step>& steps) {
    int64_t most = 0;
    for (const Step& step : steps) {
      int64_t num_tokens = 0;
      for (const Feed& feed : step) num_tokens += feed.num_tokens;
      most = std::max(most, num_tokens);
    }
    return most;
  }

  Result Run(Backend& backend, const std::vector<Step>& steps) {
    const auto upload = [&](const std::vector<Bf16>& values) {
      return backend.Upload(ConstTensorView(values.data(), DType::kBf16, {std::ssize(values)}),
                            DType::kBf16);
    };
    const Buffer cache = upload(start_cache_);
    const Buffer q_norm = upload(q_norm_);
    const Buffer k_norm = upload(k_norm_);
    const Buffer inv_freq = backend.Upload(
        ConstTensorView(inv_freq_.data(), DType::kF32, {std::ssize(inv_freq_)}), DType::kF32);
    Result result;
    result.out.resize(history_.size());
    std::vector<int64_t> fed(history_.size(), 0);
    // Memory of a step stays where it is, so that steps can be replayed.
    const int64_t tokens_max = NumTokensMax(steps);
    const Buffer qkv = upload(std::vector<Bf16>(tokens_max * shape_.Width()));
    const Buffer device_out = upload(std::vector<Bf16>(tokens_max * shape_.OutWidth()));
    for (const Step& step : steps) {
      backend.BeginStep();
      std::vector<AttentionRow> rows;
      std::vector<Bf16> tokens;
      int32_t num_tokens = 0;
      for (const Feed& feed : step) {
        const int64_t first = history_[feed.sequence] + fed[feed.sequence];
        const int64_t oldest =
            shape_.window == 0 ? 0 : std::max<int64_t>(0, first - shape_.window + 1);
        const auto first_block = static_cast<int32_t>(oldest / kBlockTokens);
        rows.push_back({.first_token = num_tokens,
                        .num_tokens = feed.num_tokens,
                        .first_position = first,
                        .first_block = first_block,
                        .blocks = std::span(tables_[feed.sequence]).subspan(first_block)});
        const auto begin = inputs_[feed.sequence].begin() + fed[feed.sequence] * shape_.Width();
        tokens.insert(tokens.end(), begin, begin + int64_t{feed.num_tokens} * shape_.Width());
        num_tokens += feed.num_tokens;
        fed[feed.sequence] += feed.num_tokens;
      }
      const AttentionBatch batch = backend.StageRows(rows, {.num_q_heads = shape_.QHeads(),
                                                            .num_kv_heads = shape_.num_kv_heads,
                                                            .head_dim = shape_.head_dim,
                                                            .window = shape_.window});
      std::vector<Bf16> out(int64_t{num_tokens} * shape_.OutWidth(), Bf16{0xffff});
      CopyTo(backend, qkv, tokens);
      CopyTo(backend, device_out, out);
      const PagedAttentionArgs args{
          .qkv = TensorView(qkv.data(), DType::kBf16, {num_tokens, shape_.Width()}),
          .q_norm = ConstTensorView(q_norm.data(), DType::kBf16, {shape_.head_dim}),
          .k_norm = ConstTensorView(k_norm.data(), DType::kBf16, {shape_.head_dim}),
          .inv_freq = ConstTensorView(inv_freq.data(), DType::kF32, {shape_.head_dim / 2}),
          .eps = 1e-6F,
          .num_q_heads = shape_.QHeads(),
          .num_kv_heads = shape_.num_kv_heads,
          .head_dim = shape_.head_dim,
          .has_kv = shape_.has_kv,
          .k_eq_v = shape_.k_eq_v,
          .window = shape_.window,
          .batch = batch,
          .kv = {.base = static_cast<std::byte*>(cache.data()),
                 .block_stride = shape_.BlockElements() * SizeOf(DType::kBf16)},
          .out = TensorView(device_out.data(), DType::kBf16, {num_tokens, shape_.OutWidth()})};
      std::vector<int64_t> key = {num_tokens};
      for (const Buffer* buffer : {&qkv, &device_out, &cache, &q_norm, &k_norm, &inv_freq}) {
        key.push_back(reinterpret_cast<int64_t>(buffer->data()));
      }
      backend.RunRecorded(key, [&] { backend.PagedAttention(args); });
      backend.CopyToHost(out.data(), device_out.data(), std::ssize(out) * SizeOf(DType::kBf16));
      for (size_t r = 0; r < rows.size(); ++r) {
        const auto begin = out.begin() + int64_t{rows[r].first_token} * shape_.OutWidth();
        std::vector<Bf16>& all = result.out[step[r].sequence];
        all.insert(all.end(), begin, begin + int64_t{rows[r].num_tokens} * shape_.OutWidth());
      }
    }
    result.cache.resize(start_cache_.size());
    backend.CopyToHost(result.cache.data(), cache.data(),
                       std::ssize(start_cache_) * SizeOf(DType::kBf16));
    return result;
  }

  const Shape shape_;
  const std::vector<int> history_;
  std::mt19937 random_;
  std::vector<std::vector<Bf16>> inputs_;  // Of each sequence: [new tokens, width].
  std::vector<std::vector<int32_t>> tables_;
  std::vector<Bf16> q_norm_;
  std::vector<Bf16> k_norm_;
  std::vector<float> inv_freq_;
  std::vector<Bf16> start_cache_;
  ReferenceBackend reference_;
  CudaBackend cuda_;
};

// NaN where nobody stored is expected to stay.
void ExpectClose(const std::vector<Bf16>& got, const std::vector<Bf16>& want, const char* what) {
  ASSERT_EQ(got.size(), want.size());
  float scale = 1e-3F;
  for (const Bf16 value : want) {
    if (!std::isnan(ToFloat(value))) scale = std::max(scale, std::abs(ToFloat(value)));
  }
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::isnan(ToFloat(want[i])) && std::isnan(ToFloat(got[i]))) continue;
    ASSERT_LE(std::abs(ToFloat(got[i]) - ToFloat(want[i])), scale * 2.5F / 256)
        << what << "[" << i << "] is " << ToFloat(got[i]) << ", reference " << ToFloat(want[i]);
  }
}

void ExpectLikeReference(World& world, const std::vector<Step>& steps) {
  const World::Result got = world.RunCuda(steps);
  const World::Result want = world.RunReference(steps);
  for (size_t s = 0; s < want.out.size(); ++s) ExpectClose(got.out[s], want.out[s], "out");
  ExpectClose(got.cache, want.cache, "cache");
}

struct NamedCase {
  const char* name;
  Shape shape;
  std::vector<int> history;
  std::vector<Step> steps;
  int new_tokens_max = 0;
};

void PrintTo(const NamedCase& named, std::ostream* out) { *out << named.name; }

class CudaAttentionTest : public testing::TestWithParam<NamedCase> {};

TEST_P(CudaAttentionTest, IsLikeTheReference) {
  const NamedCase& named = GetParam();
  UseExecutionOrder(static_cast<uint32_t>(std::strlen(named.name)));
  World world(named.shape, named.history, named.new_tokens_max, 11);
  ExpectLikeReference(world, named.steps);
}

const NamedCase kCases[] = {
    {.name = "decode_of_31b_full_layers_folds_four_splits",
     .shape = {.head_dim = 512, .num_kv_heads = 2, .group = 8, .k_eq_v = true},
     .history = {800, 3},
     .steps = {{{0}, {1}}},
     .new_tokens_max = 1},
    {.name = "decode_of_26b_sliding_layers_starts_inside_the_window",
     .shape = {.head_dim = 256, .num_kv_heads = 2, .group = 2, .window = 512},
     .history = {1300, 511, 512},
     .steps = {{{0}, {1}, {2}}},
     .new_tokens_max = 1},
    {.name = "prefill_of_full_layers_in_turn",
     .shape = {.head_dim = 512, .num_kv_heads = 1, .group = 8},
     .history = {250},
     .steps = {{{0, 17}}},
     .new_tokens_max = 17},
    {.name = "prefill_of_sliding_layers_in_turn",
     .shape = {.head_dim = 256, .num_kv_heads = 1, .group = 4, .window = 100},
     .history = {470},
     .steps = {{{0, 50}}},
     .new_tokens_max = 50},
    {.name = "few_columns_of_a_chunk_go_side_by_side",
     .shape = {.head_dim = 128, .num_kv_heads = 1, .group = 4},
     .history = {700},
     .steps = {{{0, 20}}},
     .new_tokens_max = 20},
    {.name = "many_splits_are_folded_apart",
     .shape = {.head_dim = 64, .num_kv_heads = 2, .group = 3},
     .history = {2600, 100, 2303},
     .steps = {{{0}, {1}, {2}}},
     .new_tokens_max = 1},
    {.name = "many_splits_of_a_chunk_are_folded_apart",
     .shape = {.head_dim = 32, .num_kv_heads = 1, .group = 2},
     .history = {2400},
     .steps = {{{0, 40}}},
     .new_tokens_max = 40},
    {.name = "decode_and_chunks_share_a_step",
     .shape = {.head_dim = 64, .num_kv_heads = 2, .group = 4, .window = 70},
     .history = {300, 0, 15, 129, 64},
     .steps = {{{0}, {1, 33}, {2}, {3, 5}, {4, 2}}, {{4, 40}, {1}, {0}, {2}}},
     .new_tokens_max = 42},
    {.name = "a_layer_that_shares_kv_brings_q_only",
     .shape = {.head_dim = 32, .num_kv_heads = 2, .group = 2, .window = 30, .has_kv = false},
     .history = {60, 10},
     .steps = {{{0, 9}, {1}}, {{1, 3}, {0}}},
     .new_tokens_max = 10},
    {.name = "a_window_of_one_sees_itself",
     .shape = {.head_dim = 16, .num_kv_heads = 1, .group = 1, .window = 1},
     .history = {0, 255},
     .steps = {{{0, 20}, {1, 3}}},
     .new_tokens_max = 20},
    {.name = "a_group_beyond_one_tile_of_columns",
     .shape = {.head_dim = 16, .num_kv_heads = 2, .group = 12},
     .history = {270},
     .steps = {{{0}}},
     .new_tokens_max = 1},
};

INSTANTIATE_TEST_SUITE_P(Named,
                         CudaAttentionTest,
                         testing::ValuesIn(kCases),
                         [](const auto& named) { return std::string(named.param.name); });

// Wide heads have other blocks on a device with less shared memory.
TEST(CudaAttentionSmallBlocksTest, GiveTheSameBits) {
  UseExecutionOrder(7);
  for (const NamedCase& named : kCases) {
    if (named.shape.head_dim < 256) continue;
    SCOPED_TRACE(named.name);
    World world(named.shape, named.history, named.new_tokens_max, 11);
    World small(named.shape, named.history, named.new_tokens_max, 11, {.small_blocks = true});
    EXPECT_TRUE(world.RunCuda(named.steps).out == small.RunCuda(named.steps).out);
  }
}

// Prefill by warpgroups: rows that are not decode, of the head sizes that it has.
class WarpgroupAttentionTest : public testing::TestWithParam<NamedCase> {};

TEST_P(WarpgroupAttentionTest, IsLikeTheReference) {
  const NamedCase& named = GetParam();
  const std::shared_ptr<CublasLt> library = FastLibrary();
  if (library == nullptr) GTEST_SKIP() << "no cuBLASLt: no fast table";
  // Three warpgroups that meet at barriers alone: in each order, and with copies and products that
  // end late, early and by chance.
  for (const uint32_t order : {0U, 1U, 2U, 4U}) {
    UseExecutionOrder(order);
    World world(named.shape, named.history, named.new_tokens_max, 11,
                {.cublas_lt = library, .fast_blocks_min = 1});
    ExpectLikeReference(world, named.steps);
    if (HasFatalFailure()) return;
  }
}

const NamedCase kWarpgroupCases[] = {
    {.name = "a_prompt_of_26b_sliding_layers",
     .shape = {.head_dim = 256, .num_kv_heads = 2, .group = 2, .window = 100},
     .history = {0},
     .steps = {{{0, 150}}},
     .new_tokens_max = 150},
    {.name = "a_chunk_of_e4b_sliding_layers_behind_their_window",
     .shape = {.head_dim = 256, .num_kv_heads = 1, .group = 4, .window = 70},
     .history = {470},
     .steps = {{{0, 50}}},
     .new_tokens_max = 50},
    {.name = "rows_that_do_not_fill_a_block_and_decode_beside_them",
     .shape = {.head_dim = 256, .num_kv_heads = 1, .group = 3},
     .history = {130, 0, 64, 5},
     .steps = {{{0, 3}, {1, 33}, {2}, {3, 44}}, {{1, 4}, {0, 20}}},
     .new_tokens_max = 44},
    {.name = "a_chunk_of_26b_full_layers",
     .shape = {.head_dim = 512, .num_kv_heads = 2, .group = 8, .k_eq_v = true},
     .history = {250},
     .steps = {{{0, 17}}},
     .new_tokens_max = 17},
    {.name = "a_prompt_of_e4b_full_layers_and_another_sequence",
     .shape = {.head_dim = 512, .num_kv_heads = 1, .group = 4},
     .history = {0, 63},
     .steps = {{{0, 70}, {1, 3}}},
     .new_tokens_max = 70},
    {.name = "full_layers_that_share_kv",
     .shape = {.head_dim = 512, .num_kv_heads = 1, .group = 2, .window = 40, .has_kv = false},
     .history = {60},
     .steps = {{{0, 9}}},
     .new_tokens_max = 10},
    {.name = "a_window_of_one",
     .shape = {.head_dim = 256, .num_kv_heads = 1, .group = 1, .window = 1},
     .history = {0},
     .steps = {{{0, 70}}},
     .new_tokens_max = 70},
};

INSTANTIATE_TEST_SUITE_P(Named,
                         WarpgroupAttentionTest,
                         testing::ValuesIn(kWarpgroupCases),
                         [](const auto& named) { return std::string(named.param.name); });

class RandomCudaAttentionTest : public testing::TestWithParam<uint32_t> {};

TEST_P(RandomCudaAttentionTest, IsLikeTheReference) {
  std::mt19937 random(GetParam());
  const auto between = [&](int least, int most) {
    return least + static_cast<int>(random() % static_cast<uint32_t>(most - least + 1));
  };
  UseExecutionOrder(GetParam());
  const Shape shape{.head_dim = 16 << between(0, 4),
                    .num_kv_heads = between(1, 2),
                    .group = between(1, 9),
                    .window = int64_t{between(0, 1)} * between(1, 300),
                    .k_eq_v = between(0, 1) == 1,
                    .has_kv = between(0, 4) != 0};
  constexpr int kNewTokens = 50;
  std::vector<int> history;
  for (int s = between(1, 4); s > 0; --s) history.push_back(between(0, 1) * between(0, 600));
  World world(shape, history, kNewTokens, GetParam());
  std::vector<int> left(history.size(), kNewTokens);
  std::vector<Step> steps(3);
  for (Step& step : steps) {
    for (size_t s = 0; s < history.size(); ++s) {
      if (left[s] == 0 || (s > 0 && between(0, 3) == 0)) continue;
      const int num_tokens = between(0, 1) == 0 ? 1 : between(1, std::min(left[s], 40));
      step.push_back({static_cast<int>(s), num_tokens});
      left[s] -= num_tokens;
    }
    if (step.empty()) step.push_back({0, left[0]});
  }
  SCOPED_TRACE(testing::PrintToString(shape));
  ExpectLikeReference(world, steps);
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomCudaAttentionTest, testing::Range(0U, 24U));

TEST(CudaAttentionLaunchTest, TakesHundredsOfRows) {
  UseExecutionOrder(0);
  std::vector<int> history;
  Step step;
  for (int s = 0; s < 300; ++s) {
    history.push_back(s % 40);
    step.push_back({s});
  }
  World world({.head_dim = 16}, history, 1, 5);
  ExpectLikeReference(world, {step});
}

// Steps whose lengths pass the borders of splits, of rows with so many that a kernel of their own
// folds them, and of the buckets of blocks; sequences come and go.
TEST(CudaAttentionReplayTest, ReplaysGiveTheBitsOfLaunches) {
  for (const int64_t window : {0, 300}) {
    UseExecutionOrder(static_cast<uint32_t>(window));
    World world({.head_dim = 16, .num_kv_heads = 2, .group = 2, .window = window},
                {2040, 250, 500, 1}, 30, 9);
    std::vector<Step> steps;
    for (int i = 0; i < 30; ++i) {
      Step step = {{0}, {1}};
      if (i % 10 < 6) step.push_back({2});
      if (i >= 15) step.push_back({3});
      steps.push_back(step);
    }
    const World::Result got = world.RunCuda(steps);
    const World::Result want = world.RunCudaUnrecorded(steps);
    EXPECT_GE(world.num_replays(), 8);
    EXPECT_TRUE(got.out == want.out);
    EXPECT_TRUE(got.cache == want.cache);
    ExpectLikeReference(world, steps);
  }
}

// The same bits however a sequence is cut and whatever runs beside it.
struct CutCase {
  Shape shape;
  int history;
  int num_tokens;
  std::vector<int> chunks;
};

void PrintTo(const CutCase& cut, std::ostream* out) { PrintTo(cut.shape, out); }

class CudaAttentionCutTest : public testing::TestWithParam<CutCase> {};

TEST_P(CudaAttentionCutTest, BitsDoNotDependOnChunksOrNeighbours) {
  const CutCase& cut = GetParam();
  UseExecutionOrder(0);
  World world(cut.shape, {cut.history, 37, 300}, cut.num_tokens, 3);
  const World::Result whole = world.RunCuda({{{0, cut.num_tokens}}});
  for (const int chunk : cut.chunks) {
    for (const bool beside : {false, true}) {
      UseExecutionOrder(static_cast<uint32_t>(chunk));
      std::vector<Step> steps;
      int others_left = cut.num_tokens;
      for (int fed = 0; fed < cut.num_tokens; fed += chunk) {
        const int num_tokens = std::min(chunk, cut.num_tokens - fed);
        steps.push_back({{0, num_tokens}});
        if (!beside || others_left < 6) continue;
        steps.back().insert(steps.back().begin(), {1, 5});
        steps.back().push_back({2, 1});
        others_left -= 6;
      }
      const World::Result cut_up = world.RunCuda(steps);
      EXPECT_TRUE(cut_up.out[0] == whole.out[0]) << "chunks of " << chunk << ", beside " << beside;
    }
  }
}

const CutCase kCuts[] = {
    {{.head_dim = 16, .num_kv_heads = 2, .group = 2}, 0, 150, {1, 7, 64}},
    {{.head_dim = 16, .num_kv_heads = 1, .group = 1}, 430, 100, {1, 7, 16, 64}},
    {{.head_dim = 32, .num_kv_heads = 1, .group = 8, .window = 130}, 210, 160, {1, 7, 16, 64}},
    {{.head_dim = 64, .num_kv_heads = 1, .group = 4, .k_eq_v = true}, 2545, 20, {1, 7}},
    {{.head_dim = 256, .num_kv_heads = 1, .group = 2, .window = 64}, 180, 100, {1, 16}},
    {{.head_dim = 512, .num_kv_heads = 1, .group = 8}, 500, 20, {1, 7}},
};

INSTANTIATE_TEST_SUITE_P(Cuts, CudaAttentionCutTest, testing::ValuesIn(kCuts));

}  // namespace
}  // namespace facet::kernels
