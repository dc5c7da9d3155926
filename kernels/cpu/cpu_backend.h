// The ops on x86-64 cores: weights in panels of sixteen outputs, a tier of instructions chosen at
// run time, as many threads as configured.
//
// Bits depend on the tier and nothing else: not on threads, on the number of tokens in a call or on
// their order (design.md 4). Each op is a few parallel loops over tokens or panels; the loops'
// bodies are in the files beside this one, the inner kernels in tier_kernels.inl.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "kernels/cpu/primitives.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/host_backend.h"

namespace facet::kernels {

enum class CpuTier { kScalar, kAvx2, kAvx512 };

// "scalar", "avx2", "avx512".
const char* NameOf(CpuTier tier);
std::optional<CpuTier> ParseCpuTier(std::string_view name);

// Whether this machine has the tier's instructions.
bool Supports(CpuTier tier);
CpuTier BestCpuTier();

class CpuBackend final : public HostBackend {
 public:
  // The machine must support the tier; num_threads ≥ 1.
  CpuBackend(CpuTier tier, int num_threads);

  std::string name() const override;

  int num_threads() const { return pool_.num_threads(); }

  // Large pieces are mapped in whole huge pages where the kernel gives them.
  Buffer Allocate(int64_t bytes) override;
  PackedWeight Pack(const ConstTensorView& weight, WeightFormat format) override;
  Buffer Upload(const ConstTensorView& host, DType dtype) override;

  // All threads read 1 GiB, best of three passes.
  double ProbeMemory() override;

  // A product whose weight (1 MiB in bf16) stays in cache.
  double ProbeProducts(DType dtype) override;

 private:
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
  void Draw(const SampleArgs& args, std::span<SampledToken> tokens) override;

  const CpuTier tier_;
  const Primitives& primitives_;
  ThreadPool pool_;
  ThreadScratch scratch_;
  OpScratch rows_;  // Normed rows of the op in progress.
  Buffer probe_memory_;
};

}  // namespace facet::kernels
