// Sampling: the same filters and the same noise as on the host, so that equal logits give equal
// tokens.
//
// A row is spread over parts, one block each, as many as give every SM one. Parts take turns every
// 32 ids, so that none has all of the best where those are neighbours. A part hands on the largest
// keys (sample_select.cuh) of its logits: one if the row is greedy, one with its noise if nothing
// is filtered, top_k where that is at most kSelectMax. The last part to arrive selects again among
// what was handed on, and ends the row: min_p, top-p, noise. That is right because no two keys are
// equal, because weights do not grow where scores fall (so that min_p and top-k may change places),
// and because sums run over the selected ones alone, downwards in double as on the host. So a token
// does not depend on the number of parts either.
//
// Bytes: a row is 1 MB of float32 that Head has left in L2. Its parts read it once, or twice where
// top_k keys are selected (the second time from L1 if parts are small), and hand on 8 bytes for
// each part and key.
//
// Some rows stay with one block: those whose logits are adjusted (penalties, bias, barred, mask),
// which is one pass more that writes them; those with a larger top_k, which takes up to eight
// passes; those with min_p alone, which needs the largest score before its one pass.
//
// Rows that want log-probabilities, or top-p over more than kChoicesMax candidates, are drawn on
// the host from a copy of their logits, when the step is waited for.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/approx.h"
#include "kernels/cuda/arrive_last.cuh"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/sample_select.cuh"
#include "kernels/sampling_math.h"

namespace facet::kernels {
namespace sampling {
namespace {

// A part of fewer logits would mostly wait at barriers, and the last part would have more keys of
// other parts to read than logits of its own.
constexpr int kPartLogits = 4096;
constexpr int kPartsMax = kPartLogits / kSelectMax;

// What a row's parts look for.
enum class Way : int32_t {
  kGreedy,      // The largest score.
  kUnfiltered,  // The largest score with noise.
  kTopK,        // The top_k largest scores, at most kSelectMax.
  kWholeRow,    // Anything else, by one part.
};

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
  Way way;
  int num_parts;      // 1 if adjusted or kWholeRow.
  Key* handed_on;     // [kSelectMax][num_parts]; null if there is one part.
  uint32_t* counter;  // Of parts that arrived, zero between launches.
  NoiseKey noise;
  int32_t* last_token;  // Null: nobody's.
  int32_t* drawn;       // The id and whether all logits were finite; the host's memory.
};

// By one thread of the row.
FACET_DEVICE void Give(const DeviceSampleRow& row, int32_t id) {
  row.drawn[0] = id;
  row.drawn[1] = 1;
  if (row.last_token != nullptr) *row.last_token = id;
}

FACET_DEVICE void GiveNotFinite(const DeviceSampleRow& row) {
  row.drawn[0] = -1;
  row.drawn[1] = 0;
}

// Step 1 of SampleRow into row.adjusted, and whether the logits were finite before it: if not, it
// is left out. Ids of seen are different from each other; bias may name an id twice.
FACET_DEVICE bool Adjust(const DeviceSampleRow& row, int vocab) {
  FACET_SHARED(num_bad, int);
  const int thread = Thread();
  if (thread == 0) num_bad = 0;
  ptx::SyncThreads();
  for (int id = thread; id < vocab; id += kThreads) {
    const float logit = row.logits[id];
    if (!IsFinite(logit)) ptx::AtomicAdd(&num_bad, 1);
    row.adjusted[id] = logit;
  }
  ptx::SyncThreads();
  if (num_bad > 0) return false;
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
  return true;
}

// --- Where keys come from -----------------------------------------------------------------------

// The scores of one part's logits.
struct Slice {
  const float* logits;
  int vocab;
  int part;
  int num_parts;
  float divisor;  // The temperature, or 1 if that is 0.
  bool adjusted;  // Then they were looked at before, and some may have been made infinite.

  FACET_DEVICE Key KeyAt(int id, float logit) const {
    if (!adjusted && !IsFinite(logit)) return MakeKey(kNotFinite, id);
    return KeyOf(divisor == 1 ? logit : logit / divisor, id);
  }

  template <typename Visit>
  FACET_DEVICE void ForEachOfThread(const Visit& visit) const {
    constexpr int kAhead = 4;  // Loads under way.
    const int step = kThreads * num_parts;
    int id = (Thread() / 32 * num_parts + part) * 32 + Thread() % 32;
    for (; id < vocab; id += kAhead * step) {
      float ahead[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        ahead[i] = id + i * step < vocab ? logits[id + i * step] : 0;
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (id + i * step < vocab) visit(KeyAt(id + i * step, ahead[i]));
      }
    }
  }
};

FACET_DEVICE Key AddNoise(Key key, const NoiseKey& noise) {
  const int id = IdOf(key);
  return KeyOf(ScoreOf(key) + GumbelNoise(noise, id), id);
}

// The same with noise. Scores whose weight is 0 are among them, which does not matter: the noise is
// between -3 and 17, so that they stay below the largest.
struct NoisySlice {
  Slice slice;
  NoiseKey noise;

  template <typename Visit>
  FACET_DEVICE void ForEachOfThread(const Visit& visit) const {
    slice.ForEachOfThread([&](Key key) { visit(IsFinite(key) ? AddNoise(key, noise) : key); });
  }
};

// What the parts have handed on: the largest keys of all, then the second ones, and so on, so that
// each of BoundOf's groups has some of the first.
struct HandedOn {
  const Key* keys;
  int num_keys;

  template <typename Visit>
  FACET_DEVICE void ForEachOfThread(const Visit& visit) const {
    for (int i = Thread(); i < num_keys; i += kThreads) visit(keys[i]);
  }
};

// How likely a score is, against the largest. ApproxExp never falls as its argument grows (all
// floats up to 0 were tried).
FACET_DEVICE float Weight(float score, float largest) { return ApproxExp(score - largest); }

// What min_p leaves of a slice.
struct Likely {
  Slice slice;
  float largest;  // Score.
  float min_p;

  template <typename Visit>
  FACET_DEVICE void ForEachOfThread(const Visit& visit) const {
    slice.ForEachOfThread([&](Key key) {
      const float weight = Weight(ScoreOf(key), largest);
      if (weight > 0 && weight >= min_p) visit(key);
    });
  }
};

// --- The end of a row ---------------------------------------------------------------------------

// Draws among the choices, which fall, after min_p and top-p; 0 if nothing is left of them.
FACET_DEVICE Key DrawChoice(const DeviceSampleRow& row,
                            int num_choices,
                            const BlockMemory& memory) {
  FACET_SHARED(total, double);
  const int thread = Thread();
  const Key key = thread < num_choices ? memory.choices[thread] : 0;
  const float weight = Weight(ScoreOf(key), ScoreOf(memory.choices[0]));
  bool left = thread < num_choices && weight > 0 && weight >= row.min_p;
  if (row.top_p < 1) {
    // A choice is left if the sum of those before it is below the share; the first always is.
    memory.sums[thread] = left ? weight : 0;
    ptx::SyncThreads();
    if (thread == 0) {
      double sum = 0;
#pragma unroll 8
      for (int i = 0; i < num_choices; ++i) {
        const double before = sum;
        sum += memory.sums[i];
        memory.sums[i] = before;
      }
      total = sum;
    }
    ptx::SyncThreads();
    left = left && (thread == 0 || memory.sums[thread] < row.top_p * total);
  }
  return BlockMax(left ? AddNoise(key, row.noise) : 0, memory);
}

// What kWholeRow draws; 0 if everything was barred.
FACET_DEVICE Key DrawFromSlice(const DeviceSampleRow& row,
                               const Slice& slice,
                               Key first,
                               const BlockMemory& memory) {
  const Likely likely{.slice = slice, .largest = ScoreOf(first), .min_p = row.min_p};
  if (row.top_k == 0) {
    Key noisy = 0;
    likely.ForEachOfThread([&](Key key) {
      const Key drawn = AddNoise(key, row.noise);
      noisy = drawn > noisy ? drawn : noisy;
    });
    return BlockMax(noisy, memory);
  }
  const int num_choices = Collect(likely, KthKey(likely, row.top_k, memory), memory);
  SortChoices(num_choices, memory);
  return DrawChoice(row, num_choices, memory);
}

// Block (part, row).
__global__ void __launch_bounds__(kThreads) SampleKernel(const DeviceSampleRow* rows, int vocab) {
  const BlockMemory memory = BlockMemory::Take();
  const int thread = Thread();
  const auto part = static_cast<int>(blockIdx.x);
  ptx::GridDependencyWait();
  const DeviceSampleRow row = rows[blockIdx.y];
  if (part >= row.num_parts) return;
  if (row.adjusted != nullptr && !Adjust(row, vocab)) {
    if (thread == 0) GiveNotFinite(row);
    return;
  }

  // The largest keys of this part: top_k in the choices, or one.
  const Slice slice{.logits = row.adjusted != nullptr ? row.adjusted : row.logits,
                    .vocab = vocab,
                    .part = part,
                    .num_parts = row.num_parts,
                    .divisor = row.temperature == 0 ? 1 : row.temperature,
                    .adjusted = row.adjusted != nullptr};
  Key first;
  int num_choices = 0;
  if (row.way == Way::kTopK) {
    num_choices = SelectLargest(slice, row.top_k, memory);
    first = memory.choices[0];
  } else if (row.way == Way::kUnfiltered) {
    first = BlockMax(ThreadMax(NoisySlice{slice, row.noise}), memory);
  } else {
    first = BlockMax(ThreadMax(slice), memory);
  }

  // Those of the row.
  if (row.num_parts > 1) {
    const int num_kept = row.way == Way::kTopK ? row.top_k : 1;
    Key kept = thread < num_choices ? memory.choices[thread] : 0;
    if (thread == 0) kept = first;
    if (thread < num_kept) row.handed_on[thread * row.num_parts + part] = kept;
    if (!ArriveLast(row.counter, row.num_parts)) return;
    const HandedOn handed_on{row.handed_on, num_kept * row.num_parts};
    if (row.way == Way::kTopK) {
      num_choices = SelectLargest(handed_on, row.top_k, memory);
      first = memory.choices[0];
    } else {
      first = BlockMax(ThreadMax(handed_on), memory);
    }
  }
  if (!IsFinite(first)) {
    if (thread == 0) GiveNotFinite(row);
    return;
  }

  // The draw. 0 is drawn where nothing is left: if all was barred, or a score is beyond float32.
  Key drawn = first;
  if (row.way == Way::kTopK) drawn = DrawChoice(row, num_choices, memory);
  if (row.way == Way::kWholeRow) drawn = DrawFromSlice(row, slice, first, memory);
  const bool nothing = row.way != Way::kGreedy && (drawn == 0 || !(ScoreOf(drawn) < INFINITY));
  if (thread == 0) Give(row, nothing ? 0 : IdOf(drawn));
}

// --- Launch -------------------------------------------------------------------------------------

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

Way WayOf(const SampleRow& row, int64_t vocab) {
  if (row.temperature == 0) return Way::kGreedy;
  if (row.top_k > 0 && row.top_k < vocab) {
    return row.top_k <= kSelectMax ? Way::kTopK : Way::kWholeRow;
  }
  return row.min_p > 0 ? Way::kWholeRow : Way::kUnfiltered;
}

bool HasParts(const SampleRow& row, int64_t vocab) {
  return !Changes(row) && WayOf(row, vocab) != Way::kWholeRow;
}

// Of each of num_rows rows: a block for each SM, where that is useful.
int64_t NumParts(int64_t num_rows, int64_t vocab, int num_sms) {
  if (num_rows == 0) return 1;
  const int64_t useful = std::min<int64_t>((vocab + kPartLogits - 1) / kPartLogits, kPartsMax);
  return std::clamp<int64_t>(num_sms / num_rows, 1, useful);
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
}  // namespace sampling

void CudaBackend::DoSample(const SampleArgs& args) {
  using namespace sampling;  // NOLINT(google-build-using-namespace): the words of this file.
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
  int64_t num_with_parts = 0;
  for (size_t i = 0; i < args.rows.size(); ++i) {
    const SampleRow& row = args.rows[i];
    if (!SamplesOnDevice(row, vocab)) {
      step.host_draws.push_back({row, i});
      continue;
    }
    on_device.push_back(i);
    num_adjusted += Changes(row) ? 1 : 0;
    num_with_parts += HasParts(row, vocab) ? 1 : 0;
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
  const int64_t num_parts = NumParts(num_with_parts, vocab, info_.num_sms);
  // Never more than this, so that recorded steps keep the addresses they know.
  auto* handed_on = ScratchFor<Key>(Scratch::kPartials, info_.num_sms * kSelectMax);
  auto* counter = ScratchFor<uint32_t>(Scratch::kCounters, info_.num_sms);
  std::vector<DeviceSampleRow> rows;
  for (const size_t i : on_device) {
    const SampleRow& row = args.rows[i];
    const bool changes = Changes(row);
    const bool has_parts = num_parts > 1 && HasParts(row, vocab);
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
                    .way = WayOf(row, vocab),
                    .num_parts = has_parts ? static_cast<int>(num_parts) : 1,
                    .handed_on = has_parts ? handed_on : nullptr,
                    .counter = has_parts ? counter++ : nullptr,
                    .noise = {row.seed, row.choice, static_cast<uint64_t>(row.position)},
                    .last_token = row.slot < 0 ? nullptr : step.last_tokens + row.slot,
                    .drawn = &drawn[i].id});
    adjusted += changes ? vocab : 0;
    handed_on += has_parts ? num_parts * kSelectMax : 0;
    seen += row.seen.size();
    bias += row.bias.size();
    barred += row.barred.size();
    mask += row.mask.size();
  }
  const DeviceSampleRow* staged_rows = StageArray(rows);
  SendStaged();
  if (!rows.empty()) {
    const dim3 grid(static_cast<unsigned>(num_parts), static_cast<unsigned>(rows.size()));
    Check(ptx::Launch({.grid = grid,
                       .block = dim3(kThreads),
                       .smem_bytes = BlockMemory::kBytes,
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
