// What a device offers: memory, packing, and one method per op. Every op has a contract (Args
// struct with its meaning) in a header of this folder; the public method checks the views once for
// all backends, then calls the private virtual of the peer. A backend that lacks an op does not
// compile.
//
// One thread at a time drives a backend. Ops of the peers that run on the host have ended when they
// return (host_backend.h); others are enqueued, and run in the order of the calls.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "kernels/buffer.h"
#include "kernels/device_stream.h"
#include "kernels/embedding.h"
#include "kernels/head.h"
#include "kernels/keep_rows.h"
#include "kernels/mlp.h"
#include "kernels/moe.h"
#include "kernels/moe_exchange.h"
#include "kernels/packed_weight.h"
#include "kernels/per_layer_embedding.h"
#include "kernels/tensor_view.h"

namespace facet::kernels {

// Fetches bytes of weights from where a host view points.
using HostReader = std::function<void(void* to, const void* from, int64_t bytes)>;

// A table in the place where a backend's ops read it; owner is empty if that is the host's memory.
struct HostTable {
  ConstTensorView view;
  Buffer owner;
};

// What a step has drawn, and how long the device was busy with it.
struct StepOutcome {
  std::vector<SampledToken> tokens;  // One for each row given to Sample, in order.
  int64_t device_ns = 0;             // Of two steps no nanosecond is counted twice.
};

// A step whose ops were all called. Must not outlive its backend; two may exist at a time.
class StepInFlight {
 public:
  virtual ~StepInFlight() = default;

  // Whether some rows are drawn by Wait, on the host. Then Wait comes before the next BeginStep, on
  // the thread that drives the backend, and what the rows refer to stays until then.
  virtual bool draws_on_host() const = 0;

  // Waits for the step's end; called once, from any thread.
  virtual StepOutcome Wait() = 0;
};

// What a model may be given.
struct MemoryOffer {
  int64_t free_bytes = std::numeric_limits<int64_t>::max();  // The most: the host's own to refuse.
  bool holds_tables = true;  // Of KeepTable; else those take nothing of it.
};

class Backend {
 public:
  virtual ~Backend() = default;

  // "reference", "cpu/avx512": the first part of the numerics id (design.md 4).
  virtual std::string name() const = 0;

  // The last part of it: "exact-1", or "fast-1", which promises no equal bits.
  virtual std::string kernel_table() const { return "exact-1"; }

  // Whether ops, Pack and KeepTable read host memory in place; a device copies it.
  virtual bool ReadsHostMemory() const { return true; }

  // How a device gets what Pack and KeepTable copy, until EndLoading; memcpy unless told otherwise.
  virtual void SetHostReader(const HostReader&) {}

  // Of the device, now.
  virtual MemoryOffer Memory() const { return {}; }

  // Zeroed memory of the device, aligned to 64 bytes. Dies if there is none: callers know the size
  // beforehand and refuse what cannot fit in Memory().
  virtual Buffer Allocate(int64_t bytes) = 0;

  // A copy of weight ([rows, cols], f32 or bf16) in this backend's layout and the given format.
  virtual PackedWeight Pack(const ConstTensorView& weight, WeightFormat format) = 0;

  // A copy of a host tensor (f32 or bf16) in device memory, its elements as dtype.
  virtual Buffer Upload(const ConstTensorView& host, DType dtype) = 0;

  // Where ops are enqueued; null if they run on the host. Lives as long as the backend.
  virtual const DeviceStream* device_stream() const { return nullptr; }

  // Whether models with activations and weights of this dtype run here.
  virtual bool Supports(DType) const { return true; }

  // Brackets the ops of one step; of two steps the later one runs after the earlier one.
  virtual void BeginStep() = 0;
  virtual std::unique_ptr<StepInFlight> EndStep() = 0;

  // What the ops of one step read from host memory (ids, rows, block tables) is staged: the result
  // names memory that ops can read once SendStaged was called, until the next BeginStep. Peers that
  // read host memory give back what they were given, which must live until EndStep.
  virtual ConstTensorView StageInts(std::span<const int32_t> host) = 0;
  // For the PagedAttention of layers of this shape.
  virtual AttentionBatch StageRows(std::span<const AttentionRow> rows,
                                   const AttentionShape& shape) = 0;

  // After the last Stage and before the first op that reads what was staged.
  virtual void SendStaged() = 0;

  // Calls work, which calls ops of this step and does nothing else. A device may record them and,
  // at a later call with an equal key, play the recording instead: key must tell apart whatever the
  // ops' arguments differ in, but for what this step has staged. What the ops name stays allocated.
  virtual void RunRecorded(std::span<const int64_t> key, const std::function<void()>& work) = 0;

  // A large host table of which ops read a few rows per token (per-layer embeddings). Host memory
  // must outlive the result.
  virtual HostTable KeepTable(const ConstTensorView& host) = 0;

  // After the last Pack and KeepTable: frees what only loading needs.
  virtual void EndLoading() {}

  // The ceilings that a bench holds figures against, measured now: GB/s of memory (a CPU reads, a
  // GPU copies and counts both ways) and GFLOP/s of products of this dtype. 0: not measured.
  virtual double ProbeMemory() { return 0; }

  virtual double ProbeProducts(DType) { return 0; }

  // Waits for the ops before it.
  virtual void CopyToHost(void* host, const void* device, int64_t bytes) = 0;

  void Embed(const EmbedArgs& args);
  void PleInputs(const PleInputsArgs& args);
  void NormQkv(const NormQkvArgs& args);
  void PagedAttention(const PagedAttentionArgs& args);
  void OutputProj(const OutputProjArgs& args);
  void NormGateUp(const NormGateUpArgs& args);
  void MlpDown(const MlpDownArgs& args);
  void NormRouterTopK(const NormRouterTopKArgs& args);
  void MoeUp(const MoeUpArgs& args);
  void MoeDown(const MoeDownArgs& args);
  void MoeCombine(const MoeCombineArgs& args);
  void MoePack(const MoePackArgs& args);
  void MoeUnpack(const MoeUnpackArgs& args);
  void MoeSliceSums(const MoeSliceSumsArgs& args);
  void MoeCombineSlices(const MoeCombineSlicesArgs& args);
  void PleInject(const PleInjectArgs& args);
  void KeepRows(const KeepRowsArgs& args);
  void Head(const HeadArgs& args);
  // At most once in a step.
  void Sample(const SampleArgs& args);

 private:
  virtual void DoEmbed(const EmbedArgs& args) = 0;
  virtual void DoPleInputs(const PleInputsArgs& args) = 0;
  virtual void DoNormQkv(const NormQkvArgs& args) = 0;
  virtual void DoPagedAttention(const PagedAttentionArgs& args) = 0;
  virtual void DoOutputProj(const OutputProjArgs& args) = 0;
  virtual void DoNormGateUp(const NormGateUpArgs& args) = 0;
  virtual void DoMlpDown(const MlpDownArgs& args) = 0;
  virtual void DoNormRouterTopK(const NormRouterTopKArgs& args) = 0;
  virtual void DoMoeUp(const MoeUpArgs& args) = 0;
  virtual void DoMoeDown(const MoeDownArgs& args) = 0;
  virtual void DoMoeCombine(const MoeCombineArgs& args) = 0;
  virtual void DoMoePack(const MoePackArgs& args) = 0;
  virtual void DoMoeUnpack(const MoeUnpackArgs& args) = 0;
  virtual void DoMoeSliceSums(const MoeSliceSumsArgs& args) = 0;
  virtual void DoMoeCombineSlices(const MoeCombineSlicesArgs& args) = 0;
  virtual void DoPleInject(const PleInjectArgs& args) = 0;
  virtual void DoKeepRows(const KeepRowsArgs& args) = 0;
  virtual void DoHead(const HeadArgs& args) = 0;
  virtual void DoSample(const SampleArgs& args) = 0;
};

}  // namespace facet::kernels
