// Sampling: a CTA per row, the same filters and the same noise as on the host, so that equal logits
// give equal tokens.
//
// Candidates are compared as keys of 64 bits: the score's bits in the order of floats above the
// complement of the id, so that the largest key is the largest score with the lowest id, and no
// two are equal. Passes over the row (1 MB of float32, which stays in L2): one that checks and
// finds the largest; greedy and unfiltered rows end with one more; top-k finds the k-th key by
// eight histograms of eight bits, sooner where a histogram decides. What is left, at most
// kChoicesMax, is sorted in shared memory for top-p, whose sums run downwards in double as on the
// host.
//
// Rows that want log-probabilities, or top-p over more than kChoicesMax candidates, are drawn on
// the host from a copy of their logits, when the step is waited for.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/approx.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/sampling_math.h"

namespace facet::kernels {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kChoicesMax = 1024;

// A SampleRow as the kernel reads it; lists are ranges of arrays that all rows share.
struct DeviceSampleRow {
  const float* logits;
  float* adjusted;  // Null: nothing changes the logits.
  const SampleRow::Seen* seen;
  const SampleRow::Bias* bias;
  const int32_t* barred;
  const uint32_t* mask;  // Null: all ids are allowed.
  int num_seen;
  int num_bias;
  int num_barred;
  float presence_penalty;
  float frequency_penalty;
  float repetition_penalty;
  float temperature;
  float min_p;
  float top_p;
  int top_k;
  NoiseKey noise;
  int32_t* last_token;  // Null: nobody's.
  int32_t* drawn;       // The id and whether all logits were finite; the host's memory.
};

// By one thread of the row's CTA.
FACET_DEVICE void Give(const DeviceSampleRow& row, int32_t id) {
  row.drawn[0] = id;
  row.drawn[1] = 1;
  if (row.last_token != nullptr) *row.last_token = id;
}

using Key = uint64_t;

// Adding zero turns -0 into 0: they are equal scores.
FACET_DEVICE Key KeyOf(float score, int id) {
  const uint32_t bits = BitsOfFloat(score + 0.0F);
  const uint32_t ordered = (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
  return static_cast<Key>(ordered) << 32 | (0xffffffffU - static_cast<uint32_t>(id));
}

FACET_DEVICE int IdOf(Key key) {
  return static_cast<int>(0xffffffffU - static_cast<uint32_t>(key));
}

FACET_DEVICE float ScoreOf(Key key) {
  const auto ordered = static_cast<uint32_t>(key >> 32);
  return FloatOfBits((ordered >> 31) != 0 ? ordered & 0x7fffffffU : ~ordered);
}

// The largest of all threads' keys, on all of them. warp_keys is kWarps keys of shared memory.
FACET_DEVICE Key BlockMax(Key key, Key* warp_keys) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    const Key other = ptx::ShuffleXor(key, mask);
    if (other > key) key = other;
  }
  ptx::SyncThreads();  // Nobody still reads the keys of the call before.
  if (threadIdx.x % 32 == 0) warp_keys[threadIdx.x / 32] = key;
  ptx::SyncThreads();
  Key largest = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) largest = warp_keys[w] > largest ? warp_keys[w] : largest;
  return largest;
}

// Step 1 of SampleRow into row.adjusted. Ids of seen are different from each other; bias may name
// an id twice.
FACET_DEVICE void Adjust(const DeviceSampleRow& row, int vocab) {
  const int thread = static_cast<int>(threadIdx.x);
  for (int id = thread; id < vocab; id += kThreads) row.adjusted[id] = row.logits[id];
  ptx::SyncThreads();
  for (int i = thread; i < row.num_seen; i += kThreads) {
    float logit = row.adjusted[row.seen[i].id];
    logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    if (row.seen[i].num_generated > 0) logit -= row.presence_penalty;
    logit -= row.frequency_penalty * static_cast<float>(row.seen[i].num_generated);
    row.adjusted[row.seen[i].id] = logit;
  }
  ptx::SyncThreads();
  if (thread == 0) {
    for (int i = 0; i < row.num_bias; ++i) row.adjusted[row.bias[i].id] += row.bias[i].value;
    for (int i = 0; i < row.num_barred; ++i) row.adjusted[row.barred[i]] = -INFINITY;
  }
  ptx::SyncThreads();
  if (row.mask != nullptr) {
    for (int id = thread; id < vocab; id += kThreads) {
      if ((row.mask[id / 32] >> (id % 32) & 1) == 0) row.adjusted[id] = -INFINITY;
    }
    ptx::SyncThreads();
  }
}

// What may be drawn before top-k and top-p.
struct Candidates {
  const float* logits;
  int vocab;
  float temperature;
  float largest;  // Score.
  float min_p;

  FACET_DEVICE float Weight(float score) const { return ApproxExp(score - largest); }

  // Calls visit(key) for this thread's candidates.
  template <typename Visit>
  FACET_DEVICE void ForEachOfThread(const Visit& visit) const {
    for (int id = static_cast<int>(threadIdx.x); id < vocab; id += kThreads) {
      const float score = logits[id] / temperature;
      const float weight = Weight(score);
      if (weight > 0 && weight >= min_p) visit(KeyOf(score, id));
    }
  }
};

// The smallest key among the top_k largest; 0 if there are no more than top_k candidates.
FACET_DEVICE Key KthKey(const Candidates& candidates, int top_k) {
  FACET_SHARED(histogram, int[256]);
  FACET_SHARED(shared_prefix, Key);
  FACET_SHARED(missing, int);
  FACET_SHARED(decided, bool);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    shared_prefix = 0;
    missing = top_k;
    decided = false;
  }
  Key prefix = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    if (thread < 256) histogram[thread] = 0;
    ptx::SyncThreads();
    candidates.ForEachOfThread([&](Key key) {
      if (shift == 56 || key >> (shift + 8) == prefix) {
        ptx::AtomicAdd(&histogram[key >> shift & 255], 1);
      }
    });
    ptx::SyncThreads();
    if (thread == 0) {
      int digit = 255;
      while (digit > 0 && histogram[digit] < missing) missing -= histogram[digit--];
      // The digit holds exactly what is missing, or less than that: then all candidates are kept.
      decided = histogram[digit] <= missing;
      shared_prefix = shared_prefix << 8 | static_cast<Key>(digit);
    }
    ptx::SyncThreads();
    prefix = shared_prefix;
    if (decided) return prefix << shift;
  }
  return prefix;
}

// Bitonic, falling; keys has kChoicesMax elements, one for each thread.
FACET_DEVICE void Sort(Key* keys) {
  static_assert(kChoicesMax == kThreads);
  const auto i = static_cast<int>(threadIdx.x);
  for (int size = 2; size <= kChoicesMax; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      const int j = i ^ stride;
      if (j > i) {
        const bool falling = (i & size) == 0;
        const Key a = keys[i];
        const Key b = keys[j];
        if ((a < b) == falling) {
          keys[i] = b;
          keys[j] = a;
        }
      }
      ptx::SyncThreads();
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    SampleKernel(const DeviceSampleRow* rows, int vocab) {
  ptx::SmemArena arena;
  Key* warp_keys = arena.Take<Key>(kWarps);
  Key* choices = arena.Take<Key>(kChoicesMax);
  FACET_SHARED(num_choices, int);
  FACET_SHARED(num_bad, int);
  const int thread = static_cast<int>(threadIdx.x);
  ptx::GridDependencyWait();
  const DeviceSampleRow row = rows[blockIdx.x];

  // 1 Are all logits finite?
  if (thread == 0) {
    num_bad = 0;
    num_choices = 0;
  }
  ptx::SyncThreads();
  for (int id = thread; id < vocab; id += kThreads) {
    if ((BitsOfFloat(row.logits[id]) & 0x7f800000U) == 0x7f800000U) ptx::AtomicAdd(&num_bad, 1);
  }
  ptx::SyncThreads();
  if (num_bad > 0) {
    if (thread == 0) {
      row.drawn[0] = -1;
      row.drawn[1] = 0;
    }
    return;
  }

  // 2 Penalties, bias, mask; the largest.
  if (row.adjusted != nullptr) Adjust(row, vocab);
  const float* logits = row.adjusted != nullptr ? row.adjusted : row.logits;
  Key best = 0;
  for (int id = thread; id < vocab; id += kThreads) {
    const Key key = KeyOf(logits[id], id);
    best = key > best ? key : best;
  }
  best = BlockMax(best, warp_keys);
  if (row.temperature == 0) {
    if (thread == 0) Give(row, IdOf(best));
    return;
  }

  // 3 Filters. Division by a positive temperature keeps the order.
  const Candidates candidates{.logits = logits,
                              .vocab = vocab,
                              .temperature = row.temperature,
                              .largest = ScoreOf(best) / row.temperature,
                              .min_p = row.min_p};
  Key noisy = 0;
  const auto draw = [&](Key key) {
    const int id = IdOf(key);
    const Key drawn = KeyOf(ScoreOf(key) + GumbelNoise(row.noise, id), id);
    noisy = drawn > noisy ? drawn : noisy;
  };
  if (row.top_k == 0) {
    candidates.ForEachOfThread(draw);
  } else {
    const Key last = KthKey(candidates, row.top_k);
    choices[thread] = 0;
    ptx::SyncThreads();
    candidates.ForEachOfThread([&](Key key) {
      if (key >= last) choices[ptx::AtomicAdd(&num_choices, 1)] = key;
    });
    ptx::SyncThreads();
    if (row.top_p < 1) {
      Sort(choices);
      if (thread == 0) {
        double total = 0;
        for (int i = 0; i < num_choices; ++i) total += candidates.Weight(ScoreOf(choices[i]));
        double sum = 0;
        int kept = 0;
        while (kept < num_choices && sum < row.top_p * total) {
          sum += candidates.Weight(ScoreOf(choices[kept++]));
        }
        num_choices = num_choices > 0 && kept == 0 ? 1 : kept;
      }
      ptx::SyncThreads();
    }
    if (thread < num_choices) draw(choices[thread]);
  }

  // 4 The draw. Nothing is left only if everything was barred.
  noisy = BlockMax(noisy, warp_keys);
  if (thread == 0) Give(row, noisy == 0 ? 0 : IdOf(noisy));
}

bool SamplesOnDevice(const SampleRow& row, int64_t vocab) {
  if (row.num_logprobs > 0) return false;
  if (row.temperature == 0) return true;
  if (row.top_k > 0 && row.top_k < vocab) return row.top_k <= kChoicesMax;
  return row.top_p >= 1;
}

// Whether something but the filters acts on the logits.
bool Changes(const SampleRow& row) {
  return !row.seen.empty() || !row.bias.empty() || !row.barred.empty() || !row.mask.empty();
}

// The rows' lists, one after the other in arrays that are staged as a whole.
struct StagedLists {
  std::vector<SampleRow::Seen> seen;
  std::vector<SampleRow::Bias> bias;
  std::vector<int32_t> barred;
  std::vector<uint32_t> mask;
};

template <typename T>
void Append(std::vector<T>& to, std::span<const T> from) {
  to.insert(to.end(), from.begin(), from.end());
}

}  // namespace

void CudaBackend::DoSample(const SampleArgs& args) {
  const int64_t vocab = args.logits.dim(1);
  const float* logits = args.logits.as<float>();
  const auto num_rows = static_cast<int64_t>(args.rows.size());
  StepPiece& step = steps_[step_index_];
  FACET_CHECK_EQ(step.num_rows, 0) << "one Sample in a step";
  step.num_rows = num_rows;
  step.vocab = vocab;
  step.last_tokens = args.last_tokens.as<int32_t>();
  const auto drawn_bytes = num_rows * static_cast<int64_t>(sizeof(DrawnToken));
  if (step.drawn.bytes() < drawn_bytes) step.drawn = AllocatePinned(2 * drawn_bytes);
  auto* drawn = static_cast<DrawnToken*>(step.drawn.data());

  StagedLists lists;
  std::vector<size_t> on_device;
  int64_t num_adjusted = 0;
  for (size_t i = 0; i < args.rows.size(); ++i) {
    const SampleRow& row = args.rows[i];
    if (!SamplesOnDevice(row, vocab)) {
      step.host_draws.push_back({row, i});
      continue;
    }
    on_device.push_back(i);
    num_adjusted += Changes(row) ? 1 : 0;
    Append(lists.seen, row.seen);
    Append(lists.bias, row.bias);
    Append(lists.barred, row.barred);
    Append(lists.mask, row.mask);
  }
  const auto* seen = StageArray(lists.seen);
  const auto* bias = StageArray(lists.bias);
  const auto* barred = StageArray(lists.barred);
  const auto* mask = StageArray(lists.mask);
  auto* adjusted = ScratchFor<float>(Scratch::kSampling, num_adjusted * vocab);
  std::vector<DeviceSampleRow> rows;
  for (const size_t i : on_device) {
    const SampleRow& row = args.rows[i];
    const bool changes = Changes(row);
    rows.push_back({.logits = logits + row.logits_row * vocab,
                    .adjusted = changes ? adjusted : nullptr,
                    .seen = seen,
                    .bias = bias,
                    .barred = barred,
                    .mask = row.mask.empty() ? nullptr : mask,
                    .num_seen = static_cast<int>(row.seen.size()),
                    .num_bias = static_cast<int>(row.bias.size()),
                    .num_barred = static_cast<int>(row.barred.size()),
                    .presence_penalty = row.presence_penalty,
                    .frequency_penalty = row.frequency_penalty,
                    .repetition_penalty = row.repetition_penalty,
                    .temperature = row.temperature,
                    .min_p = row.min_p,
                    .top_p = row.top_p,
                    .top_k = row.top_k < vocab ? row.top_k : 0,
                    .noise = {row.seed, row.choice, static_cast<uint64_t>(row.position)},
                    .last_token = row.slot < 0 ? nullptr : step.last_tokens + row.slot,
                    .drawn = &drawn[i].id});
    adjusted += changes ? vocab : 0;
    seen += row.seen.size();
    bias += row.bias.size();
    barred += row.barred.size();
    mask += row.mask.size();
  }
  const DeviceSampleRow* staged_rows = StageArray(rows);
  SendStaged();
  if (!rows.empty()) {
    Check(ptx::Launch({.grid = dim3(static_cast<unsigned>(rows.size())),
                       .block = dim3(kThreads),
                       .smem_bytes = (kWarps + kChoicesMax) * sizeof(Key),
                       .stream = stream_},
                      SampleKernel, staged_rows, static_cast<int>(vocab)),
          "Sample");
  }
  CopyForHostDraws(logits);
}

void CudaBackend::CopyForHostDraws(const float* logits) {
  StepPiece& step = steps_[step_index_];
  const int64_t row_bytes = step.vocab * SizeOf(DType::kF32);
  const int64_t bytes = std::ssize(step.host_draws) * row_bytes;
  if (step.host_logits.bytes() < bytes) step.host_logits = AllocatePinned(bytes);
  auto* copy = static_cast<std::byte*>(step.host_logits.data());
  for (const HostDraw& draw : step.host_draws) {
    Check(cudaMemcpyAsync(copy, logits + draw.row.logits_row * step.vocab,
                          static_cast<size_t>(row_bytes), cudaMemcpyDeviceToHost, stream_),
          "logits to the host");
    copy += row_bytes;
  }
}

}  // namespace facet::kernels
