// The inner loops, written on Lanes: sixteen floats as the including tier holds them. Everything is
// in an unnamed namespace: a tier's code must not be merged with another's by the linker.
//
// Lanes offers Zero, Splat, Load, LoadBf16, Store, Fma(a, b, c) = a b + c, and DotPairs(c, w, x): c
// plus the products of sixteen pairs of bf16 with one pair, lower element first.

// NOLINTBEGIN(bugprone-suspicious-include, misc-definitions-in-headers)
namespace facet::kernels {
namespace {

template <int kRows, int kPanels>
void GemmF32Block(const GemmTile& tile, int64_t row, int64_t panel) {
  const float* x[kRows];
  for (int r = 0; r < kRows; ++r) x[r] = static_cast<const float*>(tile.x[row + r]);
  const float* w = static_cast<const float*>(tile.panels) + panel * tile.depth * kPanelOutputs;
  Lanes sum[kRows][kPanels];
  for (auto& row_sums : sum) {
    for (Lanes& lanes : row_sums) lanes = Lanes::Zero();
  }
  for (int64_t k = 0; k < tile.depth; ++k) {
    for (int p = 0; p < kPanels; ++p) {
      const Lanes weights = Lanes::Load(w + (p * tile.depth + k) * kPanelOutputs);
      for (int r = 0; r < kRows; ++r) {
        sum[r][p] = Lanes::Fma(Lanes::Splat(x[r][k]), weights, sum[r][p]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int p = 0; p < kPanels; ++p) {
      sum[r][p].Store(tile.y + (row + r) * tile.y_stride + (panel + p) * kPanelOutputs);
    }
  }
}

template <int kRows, int kPanels>
void GemmBf16Block(const GemmTile& tile, int64_t row, int64_t panel) {
  const uint32_t* x[kRows];
  for (int r = 0; r < kRows; ++r) x[r] = static_cast<const uint32_t*>(tile.x[row + r]);
  const uint32_t* w =
      static_cast<const uint32_t*>(tile.panels) + panel * tile.depth * kPanelOutputs;
  Lanes sum[kRows][kPanels];
  for (auto& row_sums : sum) {
    for (Lanes& lanes : row_sums) lanes = Lanes::Zero();
  }
  for (int64_t k = 0; k < tile.depth; ++k) {
    for (int p = 0; p < kPanels; ++p) {
      const uint32_t* weights = w + (p * tile.depth + k) * kPanelOutputs;
      if constexpr (kRows <= 2) __builtin_prefetch(weights + kPrefetchAhead);
      for (int r = 0; r < kRows; ++r) sum[r][p] = Lanes::DotPairs(sum[r][p], weights, x[r][k]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int p = 0; p < kPanels; ++p) {
      sum[r][p].Store(tile.y + (row + r) * tile.y_stride + (panel + p) * kPanelOutputs);
    }
  }
}

// Calls Block<rows, panels>(row, panel) until the tile is covered, in blocks as large as registers
// allow; all blocks of one panel group before the next, so that its weights stay in cache.
template <template <int, int> class Block>
void CoverTile(const GemmTile& tile) {
  int64_t panel = 0;
  const auto cover_rows = [&]<int kPanels>() {
    int64_t row = 0;
    for (; row + kGemmRows <= tile.num_rows; row += kGemmRows) {
      Block<kGemmRows, kPanels>::Run(tile, row, panel);
    }
    for (; row + 2 <= tile.num_rows; row += 2) Block<2, kPanels>::Run(tile, row, panel);
    for (; row < tile.num_rows; ++row) Block<1, kPanels>::Run(tile, row, panel);
  };
  for (; panel + kGemmPanels <= tile.num_panels; panel += kGemmPanels) {
    cover_rows.template operator()<kGemmPanels>();
  }
  for (; panel < tile.num_panels; ++panel) cover_rows.template operator()<1>();
}

template <int kRows, int kPanels>
struct F32Block {
  static void Run(const GemmTile& tile, int64_t row, int64_t panel) {
    GemmF32Block<kRows, kPanels>(tile, row, panel);
  }
};

template <int kRows, int kPanels>
struct Bf16Block {
  static void Run(const GemmTile& tile, int64_t row, int64_t panel) {
    GemmBf16Block<kRows, kPanels>(tile, row, panel);
  }
};

void GemmF32(const GemmTile& tile) { CoverTile<F32Block>(tile); }

void GemmBf16(const GemmTile& tile) { CoverTile<Bf16Block>(tile); }

// Scores of kHeads heads against the sixteen keys of a tile.
template <int kHeads>
void Scores(const float* q, int head_dim, const float* keys, float* scores) {
  Lanes sum[kHeads];
  for (Lanes& lanes : sum) lanes = Lanes::Zero();
  for (int d = 0; d < head_dim; ++d) {
    const Lanes key = Lanes::Load(keys + d * kPanelOutputs);
    for (int h = 0; h < kHeads; ++h) {
      sum[h] = Lanes::Fma(Lanes::Splat(q[h * head_dim + d]), key, sum[h]);
    }
  }
  for (int h = 0; h < kHeads; ++h) sum[h].Store(scores + h * kPanelOutputs);
}

template <int kHeads>
void Scores(const Bf16* q, int head_dim, const Bf16* keys, float* scores) {
  const auto* pairs = reinterpret_cast<const uint32_t*>(q);
  const auto* key_pairs = reinterpret_cast<const uint32_t*>(keys);
  const int depth = head_dim / 2;
  Lanes sum[kHeads];
  for (Lanes& lanes : sum) lanes = Lanes::Zero();
  for (int d = 0; d < depth; ++d) {
    for (int h = 0; h < kHeads; ++h) {
      sum[h] = Lanes::DotPairs(sum[h], key_pairs + d * kPanelOutputs, pairs[h * depth + d]);
    }
  }
  for (int h = 0; h < kHeads; ++h) sum[h].Store(scores + h * kPanelOutputs);
}

Lanes LoadLanes(const float* x) { return Lanes::Load(x); }

Lanes LoadLanes(const Bf16* x) { return Lanes::LoadBf16(x); }

// The sum so far of one head: out = Σ exp(score - largest) v, total = Σ exp(score - largest).
struct SoftmaxState {
  float largest = -3.0e38F;
  float total = 0;
};

// Merges the visible tokens [from, to) of a tile into one head's sum.
template <typename T>
void Merge(const float* scores,
           const T* values,
           int from,
           int to,
           int head_dim,
           SoftmaxState& state,
           float* out) {
  float largest = state.largest;
  for (int j = from; j < to; ++j) largest = scores[j] > largest ? scores[j] : largest;
  const float fade = ApproxExp(state.largest - largest);
  float weights[kPanelOutputs];
  float total = state.total * fade;
  for (int j = from; j < to; ++j) {
    weights[j] = ApproxExp(scores[j] - largest);
    total += weights[j];
  }
  state = SoftmaxState{.largest = largest, .total = total};
  const Lanes fades = Lanes::Splat(fade);
  for (int d = 0; d < head_dim; d += kPanelOutputs) {
    Lanes sum = Lanes::Fma(Lanes::Load(out + d), fades, Lanes::Zero());
    for (int j = from; j < to; ++j) {
      sum = Lanes::Fma(Lanes::Splat(weights[j]), LoadLanes(values + j * head_dim + d), sum);
    }
    sum.Store(out + d);
  }
}

// Tiles of sixteen absolute positions, merged ascending: what one token sees and in which order is
// a function of its position and the window alone.
template <typename T>
void Attend(const AttendTile& tile) {
  constexpr int kHeadsMax = 64;
  SoftmaxState states[kHeadsMax];
  float scores[kHeadsMax * kPanelOutputs];
  const T* q = static_cast<const T*>(tile.q);
  for (int i = 0; i < tile.group * tile.head_dim; ++i) tile.out[i] = 0;
  for (int64_t block = tile.first / kPanelOutputs; block <= tile.position / kPanelOutputs;
       ++block) {
    const std::byte* data = tile.base + tile.blocks[block - tile.first_block] * tile.block_stride;
    const T* keys = reinterpret_cast<const T*>(data + tile.k_offset);
    const T* values = reinterpret_cast<const T*>(data + tile.v_offset);
    int head = 0;
    for (; head + 4 <= tile.group; head += 4) {
      Scores<4>(q + head * tile.head_dim, tile.head_dim, keys, scores + head * kPanelOutputs);
    }
    for (; head < tile.group; ++head) {
      Scores<1>(q + head * tile.head_dim, tile.head_dim, keys, scores + head * kPanelOutputs);
    }
    const int64_t start = block * kPanelOutputs;
    const int from = static_cast<int>(tile.first > start ? tile.first - start : 0);
    const int64_t seen = tile.position + 1 - start;
    const int to = static_cast<int>(seen < kPanelOutputs ? seen : kPanelOutputs);
    for (head = 0; head < tile.group; ++head) {
      Merge(scores + head * kPanelOutputs, values, from, to, tile.head_dim, states[head],
            tile.out + head * tile.head_dim);
    }
  }
  for (int head = 0; head < tile.group; ++head) {
    const float inverse = 1.0F / states[head].total;
    for (int d = 0; d < tile.head_dim; ++d) tile.out[head * tile.head_dim + d] *= inverse;
  }
}

float SumSquares(const float* x, int64_t size) {
  Lanes sum = Lanes::Zero();
  int64_t i = 0;
  for (; i + kPanelOutputs <= size; i += kPanelOutputs) {
    const Lanes lanes = Lanes::Load(x + i);
    sum = Lanes::Fma(lanes, lanes, sum);
  }
  float parts[kPanelOutputs];
  sum.Store(parts);
  for (int j = 0; i < size; ++i, ++j) parts[j] += x[i] * x[i];
  for (int step = kPanelOutputs / 2; step > 0; step /= 2) {
    for (int j = 0; j < step; ++j) parts[j] += parts[j + step];
  }
  return parts[0];
}

void GatedGeluF32(const float* gate, const float* up, int64_t size, float* y) {
  for (int64_t i = 0; i < size; ++i) y[i] = ApproxGelu(gate[i]) * up[i];
}

void GatedGeluBf16(const float* gate, const float* up, int64_t size, Bf16* y) {
  for (int64_t i = 0; i < size; ++i) {
    y[i] = ToBf16(RoundToBf16(ApproxGelu(RoundToBf16(gate[i]))) * RoundToBf16(up[i]));
  }
}

constexpr Primitives kPrimitives = {
    .name = kTierName,
    .gemm_f32 = GemmF32,
    .gemm_bf16 = GemmBf16,
    .attend_f32 = Attend<float>,
    .attend_bf16 = Attend<Bf16>,
    .sum_squares = SumSquares,
    .gated_gelu_f32 = GatedGeluF32,
    .gated_gelu_bf16 = GatedGeluBf16,
};

}  // namespace
}  // namespace facet::kernels

// NOLINTEND(bugprone-suspicious-include, misc-definitions-in-headers)
