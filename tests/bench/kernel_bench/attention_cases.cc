// Paged attention at the heads of the published models: decode rows of many sequences, and whole
// prompts. Blocks of a sequence lie in random order in the cache, as they do after a while.
#include <algorithm>
#include <numeric>
#include <random>
#include <span>

#include "base/math.h"
#include "tests/bench/kernel_bench/bench.h"

namespace facet::bench {
namespace {

using kernels::DType;
using kernels::kBlockTokens;

constexpr float kEps = 1e-6F;
constexpr double kValueBytes = 2;
// Less KV in one call is latency, not bandwidth: the project asks nothing of it here.
constexpr double kDecodeBytesMin = 64e6;
constexpr Bar kDecode = {.must = 0.80, .good = 0.85};

struct AttentionCase {
  const char* op;
  const char* model;  // Whose heads these are.
  int num_q_heads;
  int num_kv_heads;
  int head_dim;
  bool k_eq_v;
  int64_t window;  // 0: none.
  int64_t num_sequences;
  int64_t new_tokens;
  int64_t context_tokens;  // Of each sequence, the new ones among them.
  Bar bar;
};

int64_t FirstBlock(const AttentionCase& c) {
  const int64_t first_position = c.context_tokens - c.new_tokens;
  return c.window == 0 ? 0 : std::max<int64_t>(0, first_position - c.window + 1) / kBlockTokens;
}

// Keys that all queries of one sequence see together, each counted as often as it is seen.
double KeysSeen(const AttentionCase& c) {
  double keys = 0;
  for (int64_t t = c.context_tokens - c.new_tokens; t < c.context_tokens; ++t) {
    keys += static_cast<double>(c.window == 0 ? t + 1 : std::min(t + 1, c.window));
  }
  return keys;
}

// Tokens of one sequence whose keys and values have to be read.
double TokensRead(const AttentionCase& c) {
  return static_cast<double>(
      c.window == 0 ? c.context_tokens : std::min(c.context_tokens, c.window + c.new_tokens - 1));
}

// One cache and the place of every sequence's blocks in it.
struct Cache {
  kernels::Buffer memory;
  std::vector<std::vector<int32_t>> tables;
  std::vector<kernels::AttentionRow> rows;
  kernels::AttentionBatch batch;
};

Cache MakeCache(Bench& bench, const AttentionCase& c, int64_t block_values, std::mt19937& random) {
  const int64_t first_block = FirstBlock(c);
  const int64_t blocks_each = CeilDiv(c.context_tokens, int64_t{kBlockTokens}) - first_block;
  Cache cache;
  cache.memory = bench.RandomValues(c.num_sequences * blocks_each * block_values);
  std::vector<int32_t> places(static_cast<size_t>(c.num_sequences * blocks_each));
  std::iota(places.begin(), places.end(), 0);
  std::shuffle(places.begin(), places.end(), random);
  for (int64_t s = 0; s < c.num_sequences; ++s) {
    const auto begin = places.begin() + s * blocks_each;
    cache.tables.emplace_back(begin, begin + blocks_each);
    cache.rows.push_back({.first_token = static_cast<int32_t>(s * c.new_tokens),
                          .num_tokens = static_cast<int32_t>(c.new_tokens),
                          .first_position = c.context_tokens - c.new_tokens,
                          .first_block = static_cast<int32_t>(first_block)});
  }
  for (size_t s = 0; s < cache.rows.size(); ++s) cache.rows[s].blocks = cache.tables[s];
  cache.batch = bench.backend().StageRows(cache.rows, {.num_q_heads = c.num_q_heads,
                                                       .num_kv_heads = c.num_kv_heads,
                                                       .head_dim = c.head_dim,
                                                       .window = c.window});
  return cache;
}

void Run(Bench& bench, const AttentionCase& c) {
  const int64_t num_tokens = c.num_sequences * c.new_tokens;
  const int64_t num_heads_in = c.num_q_heads + (c.k_eq_v ? 1 : 2) * c.num_kv_heads;
  const int64_t q_width = int64_t{c.num_q_heads} * c.head_dim;
  const int64_t block_values = int64_t{2} * c.num_kv_heads * c.head_dim * kBlockTokens;
  const double kv_bytes = static_cast<double>(c.num_sequences) * TokensRead(c) *
                          static_cast<double>(block_values) / kBlockTokens * kValueBytes;
  // qkv is read, out is written; new keys and values are stored and are part of what is read.
  const double token_bytes =
      static_cast<double>(num_tokens * (num_heads_in * c.head_dim + q_width)) * kValueBytes;
  bench.backend().BeginStep();
  std::mt19937 random(1);
  std::vector<Cache> caches;
  // A row refers to tables of its own cache: the caches do not move once they are made.
  caches.reserve(static_cast<size_t>(bench.NumSets(static_cast<int64_t>(kv_bytes))));
  while (caches.size() < caches.capacity()) {
    caches.push_back(MakeCache(bench, c, block_values, random));
  }
  bench.backend().SendStaged();
  kernels::PagedAttentionArgs args{
      .qkv = bench.RandomTensor({num_tokens, num_heads_in * c.head_dim}),
      .q_norm = bench.Constant(DType::kBf16, c.head_dim, 1),
      .k_norm = bench.Constant(DType::kBf16, c.head_dim, 1),
      .inv_freq = bench.Constant(DType::kF32, c.head_dim / 2, 0.01F),
      .eps = kEps,
      .num_q_heads = c.num_q_heads,
      .num_kv_heads = c.num_kv_heads,
      .head_dim = c.head_dim,
      .k_eq_v = c.k_eq_v,
      .window = c.window,
      .out = bench.Output(DType::kBf16, {num_tokens, q_width})};
  CaseFigures figures{
      .op = c.op,
      .shape = std::string(c.model) + " hd" + std::to_string(c.head_dim) + " " +
               std::to_string(c.num_q_heads) + "/" + std::to_string(c.num_kv_heads) + " ctx " +
               std::to_string(c.context_tokens),
      .tokens = num_tokens,
      .bytes = kv_bytes + token_bytes,
      .flops =
          4.0 * static_cast<double>(c.num_sequences) * KeysSeen(c) * c.num_q_heads * c.head_dim,
      .bar = c.bar,
      .sizes = {{"sequences", c.num_sequences},
                {"q_heads", c.num_q_heads},
                {"kv_heads", c.num_kv_heads},
                {"head_dim", c.head_dim},
                {"new_tokens", c.new_tokens},
                {"keys", static_cast<int64_t>(TokensRead(c))}}};
  figures.timing = bench.Time(Replay::kGraph, static_cast<int>(caches.size()), [&](int i) {
    const Cache& cache = caches[static_cast<size_t>(i) % caches.size()];
    args.batch = cache.batch;
    args.kv = {.base = static_cast<std::byte*>(cache.memory.data()),
               .block_stride = block_values * static_cast<int64_t>(kValueBytes)};
    bench.backend().PagedAttention(args);
  });
  bench.Report(std::move(figures));
  bench.ForgetTensors();
}

// A model's sliding or full layers.
AttentionCase HeadsOf(const worker::ModelShape& shape, const char* name, bool full) {
  return {.model = name,
          .num_q_heads = shape.num_q_heads,
          .num_kv_heads = full && shape.num_global_kv_heads > 0 ? shape.num_global_kv_heads
                                                                : shape.num_kv_heads,
          .head_dim = full ? shape.global_head_dim : shape.head_dim,
          .k_eq_v = full && shape.k_eq_v,
          .window = full ? 0 : shape.window};
}

}  // namespace

void RunDecodeAttentionCases(Bench& bench) {
  struct Load {
    bool full;
    int64_t num_sequences;
    int64_t context_tokens;
  };

  constexpr Load kLoads[] = {{false, 32, 1024}, {false, 128, 1024}, {true, 32, 2048},
                             {true, 128, 1024}, {true, 1, 32768},   {true, 1, 8192}};
  constexpr Load kSmall[] = {{false, 3, 40}, {true, 3, 40}};
  for (const worker::ModelShape& shape : bench.Shapes({"e4b", "26b", "31b"})) {
    const std::span<const Load> loads =
        bench.options().check ? std::span<const Load>(kSmall) : std::span<const Load>(kLoads);
    for (const Load& load : loads) {
      AttentionCase c = HeadsOf(shape, shape.name.c_str(), load.full);
      c.op = "decode_attention";
      c.num_sequences = load.num_sequences;
      c.new_tokens = 1;
      c.context_tokens = load.context_tokens;
      const double kv_bytes = static_cast<double>(load.num_sequences) * TokensRead(c) * 2 *
                              c.num_kv_heads * c.head_dim * kValueBytes;
      if (kv_bytes >= kDecodeBytesMin) c.bar = kDecode;
      Run(bench, c);
    }
  }
}

void RunPrefillAttentionCases(Bench& bench) {
  const std::vector<int64_t> prompts =
      bench.options().check ? std::vector<int64_t>{40} : std::vector<int64_t>{2048, 8192};
  for (const worker::ModelShape& shape : bench.Shapes({"e4b", "26b"})) {
    for (const int64_t prompt : prompts) {
      for (const bool full : {false, true}) {
        AttentionCase c = HeadsOf(shape, shape.name.c_str(), full);
        c.op = bench.options().fast ? "prefill_fast" : "prefill_attention";
        c.num_sequences = 1;
        c.new_tokens = prompt;
        c.context_tokens = prompt;
        c.window = 0;  // The bar is for causal attention over the whole prompt.
        c.bar = full ? Bar{.must = 0.28, .good = 0.40} : Bar{.must = 0.35, .good = 0.50};
        Run(bench, c);
        if (full) continue;
        c.op = bench.options().fast ? "sliding_fast" : "prefill_sliding";
        c.window = shape.window;
        c.bar = Bar();
        Run(bench, c);
      }
    }
  }
}

}  // namespace facet::bench
