// The ops on one NVIDIA GPU (compute capability 8.0, 9.0 or 10.0). The `exact` kernel table
// promises bits; `fast` does not: it gives whole matrices by many rows to cuBLASLt
// (fast_products.cu) and prefill attention on compute capability 9.0 to kernels of warpgroups
// (attention_wgmma.cu).
//
// Everything is enqueued on one stream; CopyToHost waits for it, and StepInFlight::Wait for its own
// step. Bits of `exact` depend on the architecture and nothing else: each sum over k runs in one
// order that the shape of the weight gives, whatever the number of tokens (linear.cuh), and
// attention cuts its sums at absolute positions (attention.cu). bfloat16 only: a float32 model is
// refused by Supports().
//
// Launches overlap (programmatic dependent launch): a kernel may begin before the launch before it
// has ended, so each of its threads calls GridDependencyWait before it reads or writes anything but
// packed weights, which EndLoading has waited for. That wait ends when the launch before has ended
// as a whole; as that one waited too, all earlier ones have, and activations, scratch and counters
// may be overwritten. Copies, memsets, graphs and transfers of NCCL do not overlap with what is
// before or behind them, so what was staged, cleared and received is complete before the first
// kernel that follows.
//
// The same class runs in tests without a GPU: kernels and this runtime API are then executed by
// tests/support/cuda_emulator.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/cublas_lt.h"
#include "kernels/cuda/graph_cache.h"

namespace facet::kernels {

template <typename Epilogue>
struct DenseWork;
struct StoreRounded;
struct StoreGatedGelu;

// What a device can do; found once at construction.
struct CudaDeviceInfo {
  std::string name;
  int compute_capability = 0;  // 90 for 9.0.
  int num_sms = 0;
  int64_t smem_bytes = 0;  // Shared memory that one block may have.
  int64_t memory_bytes = 0;
  int64_t free_bytes = 0;
};

struct CudaOptions {
  int device = 0;
  // Tables of which a step reads a few rows per token stay in pinned host memory (E4B: 5.6 GB).
  bool tables_on_host = false;
  // The `fast` kernel table; null: `exact`. Its products by cuBLASLt have at least so many rows.
  std::shared_ptr<CublasLt> cublas_lt;
  int64_t fast_rows_min = 1024;
  // Its prefill attention has at least so many blocks; 0: more than half of what fills the device.
  int fast_blocks_min = 0;
  // For tests: kernels as on a device with kSmemBytesMin of shared memory.
  bool small_blocks = false;
  // Steps that come again are replayed as CUDA graphs.
  bool record_steps = true;
  // For tests: asked before a recording is played, with the graph that the same calls make now;
  // what it answers is a difference, of which the process dies.
  std::function<std::string(cudaGraphExec_t recorded, cudaGraph_t now)> compare_replay;
};

class CudaBackend final : public Backend {
 public:
  // Attention at head size 512 takes more shared memory than compute capability 8.6, 8.9 and 12.0
  // have.
  static constexpr int64_t kSmemBytesMin = int64_t{163} * 1024;

  // A message if this process cannot use the device, else empty; info is then filled.
  static std::string Probe(int device, CudaDeviceInfo& info);

  // The device must have passed Probe.
  explicit CudaBackend(const CudaOptions& options);
  ~CudaBackend() override;

  std::string name() const override;
  std::string kernel_table() const override;

  const CudaDeviceInfo& info() const { return info_; }

  const DeviceStream* device_stream() const override { return &device_stream_; }

  // The same as CUDA names it: a bench puts events around ops.
  cudaStream_t stream() const { return stream_; }

  bool Supports(DType dtype) const override { return dtype == DType::kBf16; }

  bool ReadsHostMemory() const override { return false; }

  void SetHostReader(const HostReader& reader) override { read_host_ = reader; }

  MemoryOffer Memory() const override;
  Buffer Allocate(int64_t bytes) override;
  PackedWeight Pack(const ConstTensorView& weight, WeightFormat format) override;
  Buffer Upload(const ConstTensorView& host, DType dtype) override;
  HostTable KeepTable(const ConstTensorView& host) override;
  void EndLoading() override;
  void BeginStep() override;
  std::unique_ptr<StepInFlight> EndStep() override;
  ConstTensorView StageInts(std::span<const int32_t> host) override;
  AttentionBatch StageRows(std::span<const AttentionRow> rows,
                           const AttentionShape& shape) override;
  void SendStaged() override;
  void RunRecorded(std::span<const int64_t> key, const std::function<void()>& work) override;

  // How often RunRecorded played a recording.
  int64_t num_replays() const { return num_replays_; }

  void CopyToHost(void* host, const void* device, int64_t bytes) override;
  double ProbeMemory() override;
  double ProbeProducts(DType dtype) override;

 private:
  // Device memory that ops of one step use between their launches, one piece for each purpose.
  // A piece grows when asked for more and keeps its address otherwise.
  enum class Scratch {
    kNormed,
    kProjected,
    kPartials,
    kCounters,
    kRouting,
    kSampling,
    kUnpacked,
    kGateAndUp,
    kWorkspace,
    kNum
  };

  void DoEmbed(const EmbedArgs& args) override;
  void DoPleInputs(const PleInputsArgs& args) override;
  void DoNormQkv(const NormQkvArgs& args) override;
  void DoPagedAttention(const PagedAttentionArgs& args) override;
  void DoOutputProj(const OutputProjArgs& args) override;
  void DoNormGateUp(const NormGateUpArgs& args) override;
  void DoMlpDown(const MlpDownArgs& args) override;
  void DoNormRouterTopK(const NormRouterTopKArgs& args) override;
  void DoMoeUp(const MoeUpArgs& args) override;
  void DoMoeDown(const MoeDownArgs& args) override;
  void DoMoeCombine(const MoeCombineArgs& args) override;
  void DoMoePack(const MoePackArgs& args) override;
  void DoMoeUnpack(const MoeUnpackArgs& args) override;
  void DoMoeSliceSums(const MoeSliceSumsArgs& args) override;
  void DoMoeCombineSlices(const MoeCombineSlicesArgs& args) override;
  void DoPleInject(const PleInjectArgs& args) override;
  void DoKeepRows(const KeepRowsArgs& args) override;
  void DoHead(const HeadArgs& args) override;
  void DoSample(const SampleArgs& args) override;

  // Products of whole matrices, by the kernel table's choice; what names the op.
  void Linear(const char* what, const DenseWork<StoreRounded>& work);
  void GatedLinear(const char* what, const DenseWork<StoreGatedGelu>& work);

  // Whether a product of so many rows is cuBLASLt's.
  bool IsFast(int64_t num_rows) const;

  // Whether prefill attention may be a kernel of warpgroups (attention_wgmma.cu).
  bool HasWarpgroups() const;

  // Rows of a row-major activation.
  struct FastInput {
    const Bf16* base = nullptr;
    int64_t num_rows = 0;
    int64_t cols = 0;
  };

  // out = x weight^T, rounded; its rows are stride elements apart.
  void FastProduct(const char* what,
                   const FastInput& x,
                   const uint4* weight,
                   int64_t num_outputs,
                   Bf16* out,
                   int64_t stride);

  // Zeroed when it is made; at least bytes long.
  template <typename T>
  T* ScratchFor(Scratch purpose, int64_t count) {
    return static_cast<T*>(GrowScratch(purpose, count * static_cast<int64_t>(sizeof(T))));
  }

  void* GrowScratch(Scratch purpose, int64_t bytes);

  // A piece of weights on both sides, and when the device has read what was last put there.
  struct LoadPiece {
    Buffer host;  // Pinned.
    Buffer device;
    cudaEvent_t copied = nullptr;
  };

  struct DrawnToken {
    int32_t id;
    int32_t finite;
  };

  // A row that the device does not draw, and its logits.
  struct HostDraw {
    SampleRow row;
    size_t index;  // In SampleArgs::rows.
  };

  // What belongs to one of the two steps that may be in flight.
  struct StepPiece {
    Buffer staged;  // Pinned; its bytes go to the same offsets of staging_.
    cudaEvent_t sent = nullptr;
    cudaEvent_t begun = nullptr;
    cudaEvent_t ended = nullptr;
    bool in_flight = false;  // Between EndStep and the end of Wait.
    // The draws: written by the sampling kernel straight into pinned memory.
    int64_t num_rows = 0;
    Buffer drawn;                      // [num_rows] of DrawnToken
    std::vector<HostDraw> host_draws;  // Others than the device's.
    Buffer host_logits;                // [host_draws, vocab], f32, pinned
    int64_t vocab = 0;
    int32_t* last_tokens = nullptr;
  };

  class CudaStep;

  class OwnStream final : public DeviceStream {
   public:
    explicit OwnStream(const CudaBackend& backend) : backend_(backend) {}

    void* handle() const override { return backend_.stream_; }

    void MakeCurrent() const override;
    bool Idle() const override;

   private:
    const CudaBackend& backend_;
  };

  static Buffer AllocatePinned(int64_t bytes);
  void CopyToDevice(void* device, const void* host, int64_t bytes);

  void ReadHost(void* to, const void* from, int64_t bytes) const;

  // One of two pieces, free to be written, at least bytes long.
  LoadPiece& NextLoadPiece(int64_t bytes);

  // Where these bytes will lie once SendStaged was called.
  const void* Stage(const void* host, int64_t bytes);

  // Stages the entries of the plan.
  AttentionPlan PlanAttention(std::span<const AttentionRow> rows, const AttentionShape& shape);

  // The ops that work calls, not run.
  cudaGraph_t Capture(const std::function<void()>& work);

  // Room for bytes more of staging, at other addresses; what was staged so far is sent.
  void GrowStaging(int64_t bytes);

  template <typename T>
  const T* StageArray(const std::vector<T>& host) {
    return static_cast<const T*>(Stage(host.data(), static_cast<int64_t>(host.size() * sizeof(T))));
  }

  // The logits of the step's host_draws.
  void CopyForHostDraws(const float* logits);

  // Which assignments each expert has, found from a step's choices (moe.cu): now or, as_planned,
  // by the last call, which had the same.
  struct Routing;
  Routing PlanRouting(const ConstTensorView& topk_ids, int num_experts, bool as_planned);

  // What the plan in scratch memory was made from.
  struct PlannedChoices {
    const void* ids = nullptr;
    int64_t num_assignments = 0;
    int num_experts = 0;

    bool operator==(const PlannedChoices&) const = default;
  };

  // A layer's experts as arrays of device pointers to packed weights.
  struct ExpertTable {
    std::vector<const uint4*> host;  // [num_experts][gate, up], then [num_experts][down]
    Buffer device;
    const uint4* const* up = nullptr;
    const uint4* const* down = nullptr;
  };

  // Uploaded at the first call for these weights.
  const ExpertTable& ExpertPointers(const std::vector<ExpertWeights>& experts);

  // Of several runs of work on the stream, by events.
  template <typename Work>
  double BestSeconds(const Work& work);

  // The device breaks mid-step: the process dies with the op's name and CUDA's words.
  static void Check(cudaError_t error, const char* what);

  const CudaOptions options_;
  CudaDeviceInfo info_;
  cudaStream_t stream_ = nullptr;
  const OwnStream device_stream_{*this};
  std::array<Buffer, static_cast<size_t>(Scratch::kNum)> scratch_;
  int64_t scratch_generation_ = 0;  // Counts changes of address.
  std::map<const ExpertWeights*, ExpertTable> expert_tables_;
  PlannedChoices planned_;
  std::array<Buffer, 2> probe_memory_;
  HostReader read_host_;
  std::array<LoadPiece, 2> load_pieces_;
  int load_index_ = 0;
  std::array<StepPiece, 2> steps_;
  int step_index_ = 0;
  // One piece for all steps: the stream's order keeps a step from overwriting what the one before
  // still reads. Bytes [staged_sent_, staged_end_) are not on their way yet.
  Buffer staging_;
  int64_t staged_sent_ = 0;
  int64_t staged_end_ = 0;
  std::vector<AttentionPlan> attention_plans_;  // Of this step.
  // What the launches of this step take from what was staged: addresses, counts, plans.
  GraphCache::Key staged_key_;
  GraphCache graphs_;
  bool capturing_ = false;
  int64_t num_replays_ = 0;
  std::vector<Buffer> retired_;  // Outgrown staging memory that a running step may still read.
};

}  // namespace facet::kernels
