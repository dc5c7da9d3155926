// What the ops mean, in plain loops: the peer that every other backend is held against. One thread,
// no tiling, float32 arithmetic with a rounding wherever the contract names one. Sums over weights
// run in double, so that the reference stands in the middle of what float32 sums may give.
#pragma once

#include "kernels/host_backend.h"

namespace facet::kernels {

class ReferenceBackend final : public HostBackend {
 public:
  std::string name() const override { return "reference"; }

  Buffer Allocate(int64_t bytes) override;
  PackedWeight Pack(const ConstTensorView& weight, WeightFormat format) override;
  Buffer Upload(const ConstTensorView& host, DType dtype) override;

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
};

}  // namespace facet::kernels
