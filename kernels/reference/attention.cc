#include "kernels/attention.h"

#include <algorithm>
#include <limits>

#include "kernels/reference/plain.h"
#include "kernels/reference/reference_backend.h"

namespace facet::kernels {
namespace {

using namespace reference;  // NOLINT(google-build-using-namespace): the words of this folder.

// Turns x at this position: element i pairs with i + head_dim / 2.
Row Rope(const Row& x, const ConstTensorView& inv_freq, int64_t position, DType dtype) {
  const int64_t half = inv_freq.dim(0);
  const bool interleaved = Misread(Misreading::kRopeInterleaved);
  Row y = x;
  for (int64_t i = 0; i < half; ++i) {
    const float angle = static_cast<float>(position) * inv_freq.as<float>()[i];
    double exact = angle;
    if (Misread(Misreading::kDoubleAngles)) {
      exact = static_cast<double>(position) * inv_freq.as<float>()[i];
    }
    const float cos = RoundTo(dtype, static_cast<float>(std::cos(exact)));
    const float sin = RoundTo(dtype, static_cast<float>(std::sin(exact)));
    const int64_t a = interleaved ? 2 * i : i;
    const int64_t b = interleaved ? 2 * i + 1 : i + half;
    y[a] = RoundTo(dtype, RoundTo(dtype, x[a] * cos) - RoundTo(dtype, x[b] * sin));
    y[b] = RoundTo(dtype, RoundTo(dtype, x[b] * cos) + RoundTo(dtype, x[a] * sin));
  }
  return y;
}

// The cache of one layer: K then V, each [num_kv_heads, 16 tokens, head_dim] in a block.
class LayerCache {
 public:
  LayerCache(const PagedAttentionArgs& args, const AttentionRow& row) : args_(args), row_(row) {}

  TensorView Block(int64_t position) const {
    const int64_t index = position / kBlockTokens - row_.first_block;
    std::byte* data = args_.kv.base + row_.blocks[index] * args_.kv.block_stride;
    return TensorView(data, args_.qkv.dtype(),
                      {2, args_.num_kv_heads, kBlockTokens, args_.head_dim});
  }

  Row Load(int kv, int head, int64_t position) const {
    Row row(args_.head_dim);
    const TensorView block = Block(position);
    for (int i = 0; i < args_.head_dim; ++i) row[i] = At(block, Offset(kv, head, position) + i);
    return row;
  }

  void Store(int kv, int head, int64_t position, const Row& row) const {
    const TensorView block = Block(position);
    for (int i = 0; i < args_.head_dim; ++i) Put(block, Offset(kv, head, position) + i, row[i]);
  }

 private:
  int64_t Offset(int kv, int head, int64_t position) const {
    return ((static_cast<int64_t>(kv) * args_.num_kv_heads + head) * kBlockTokens +
            position % kBlockTokens) *
           args_.head_dim;
  }

  const PagedAttentionArgs& args_;
  const AttentionRow& row_;
};

Row HeadOf(const ConstTensorView& qkv, int64_t token, int64_t head, int head_dim) {
  Row row(head_dim);
  for (int i = 0; i < head_dim; ++i) {
    row[i] = At(qkv, token * qkv.dim(1) + head * head_dim + i);
  }
  return row;
}

void Append(const PagedAttentionArgs& args,
            const LayerCache& cache,
            int64_t token,
            int64_t position) {
  const DType dtype = args.qkv.dtype();
  for (int head = 0; head < args.num_kv_heads; ++head) {
    const Row raw_k = HeadOf(args.qkv, token, args.num_q_heads + head, args.head_dim);
    const Row normed_k =
        Misread(Misreading::kKNotNormed) ? raw_k : RmsNorm(raw_k, args.k_norm, args.eps, dtype);
    Row raw_v = raw_k;
    if (!args.k_eq_v) {
      raw_v = HeadOf(args.qkv, token, args.num_q_heads + args.num_kv_heads + head, args.head_dim);
    } else if (Misread(Misreading::kVAfterKNorm)) {
      raw_v = normed_k;
    }
    Row v = Misread(Misreading::kVNotNormed) ? raw_v : RmsNorm(raw_v, {}, args.eps, dtype);
    if (Misread(Misreading::kRopeOnV)) v = Rope(v, args.inv_freq, position, dtype);
    cache.Store(0, head, position, Rope(normed_k, args.inv_freq, position, dtype));
    cache.Store(1, head, position, v);
  }
}

Row Attend(const PagedAttentionArgs& args,
           const LayerCache& cache,
           const Row& q,
           int kv_head,
           int64_t position) {
  int64_t window = args.window;
  if (window != 0 && Misread(Misreading::kWindowTooLong)) ++window;
  if (window != 0 && Misread(Misreading::kWindowTooShort)) --window;
  const int64_t first = window == 0 ? 0 : std::max<int64_t>(0, position - window + 1);
  std::vector<double> scores;
  double largest = -std::numeric_limits<double>::infinity();
  for (int64_t j = first; j <= position; ++j) {
    const Row k = cache.Load(0, kv_head, j);
    double score = 0;
    for (int i = 0; i < args.head_dim; ++i) score += static_cast<double>(q[i]) * k[i];
    if (Misread(Misreading::kScoresScaled)) score /= std::sqrt(args.head_dim);
    scores.push_back(score);
    largest = std::max(largest, score);
  }
  double total = 0;
  for (double& score : scores) total += score = std::exp(score - largest);
  std::vector<double> sum(args.head_dim);
  for (int64_t j = first; j <= position; ++j) {
    const Row v = cache.Load(1, kv_head, j);
    for (int i = 0; i < args.head_dim; ++i) sum[i] += scores[j - first] / total * v[i];
  }
  return Row(sum.begin(), sum.end());
}

}  // namespace

void ReferenceBackend::DoNormQkv(const NormQkvArgs& args) {
  const DType dtype = args.hidden.dtype();
  for (int64_t t = 0; t < args.hidden.dim(0); ++t) {
    const Row x = RmsNorm(RowOf(args.hidden, t), args.norm_weight, args.eps, dtype);
    Row qkv;
    for (const PackedWeight* weight : {args.q, args.k, args.v}) {
      if (weight == nullptr) continue;
      const Row part = Linear(*weight, x, dtype);
      qkv.insert(qkv.end(), part.begin(), part.end());
    }
    PutRow(args.qkv, t, qkv);
  }
}

void ReferenceBackend::DoPagedAttention(const PagedAttentionArgs& args) {
  const DType dtype = args.qkv.dtype();
  const int group = args.num_q_heads / args.num_kv_heads;
  for (const AttentionRow& row : args.batch.rows) {
    const LayerCache cache(args, row);
    for (int32_t i = 0; i < row.num_tokens; ++i) {
      const int64_t token = row.first_token + i;
      const int64_t position = row.first_position + i;
      if (args.has_kv) Append(args, cache, token, position);
      for (int head = 0; head < args.num_q_heads; ++head) {
        Row q = HeadOf(args.qkv, token, head, args.head_dim);
        if (!Misread(Misreading::kQNotNormed)) q = RmsNorm(q, args.q_norm, args.eps, dtype);
        q = Rope(q, args.inv_freq, position, dtype);
        const int kv_head =
            Misread(Misreading::kHeadsInterleaved) ? head % args.num_kv_heads : head / group;
        const Row out = Attend(args, cache, q, kv_head, position);
        for (int d = 0; d < args.head_dim; ++d) {
          Put(args.out, (token * args.num_q_heads + head) * args.head_dim + d, out[d]);
        }
      }
    }
  }
}

void ReferenceBackend::DoOutputProj(const OutputProjArgs& args) {
  for (int64_t t = 0; t < args.attention.dim(0); ++t) {
    PutRow(args.out, t, Linear(args.weight, RowOf(args.attention, t), args.out.dtype()));
  }
}

}  // namespace facet::kernels
