// A host backend that passes every op on and counts the rows that MlpDown is called with: one for
// each token and layer that was run.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "kernels/host_backend.h"

namespace facet::test {

class CountingBackend final : public kernels::HostBackend {
 public:
  explicit CountingBackend(std::unique_ptr<kernels::Backend> inner) : inner_(std::move(inner)) {}

  int64_t layer_tokens() const { return layer_tokens_; }

  std::string name() const override { return inner_->name(); }

  kernels::Buffer Allocate(int64_t bytes) override { return inner_->Allocate(bytes); }

  kernels::PackedWeight Pack(const kernels::ConstTensorView& weight,
                             kernels::WeightFormat format) override {
    return inner_->Pack(weight, format);
  }

  kernels::Buffer Upload(const kernels::ConstTensorView& host, kernels::DType dtype) override {
    return inner_->Upload(host, dtype);
  }

 private:
  void DoEmbed(const kernels::EmbedArgs& args) override { inner_->Embed(args); }

  void DoPleInputs(const kernels::PleInputsArgs& args) override { inner_->PleInputs(args); }

  void DoNormQkv(const kernels::NormQkvArgs& args) override { inner_->NormQkv(args); }

  void DoPagedAttention(const kernels::PagedAttentionArgs& args) override {
    inner_->PagedAttention(args);
  }

  void DoOutputProj(const kernels::OutputProjArgs& args) override { inner_->OutputProj(args); }

  void DoNormGateUp(const kernels::NormGateUpArgs& args) override { inner_->NormGateUp(args); }

  void DoMlpDown(const kernels::MlpDownArgs& args) override {
    layer_tokens_ += args.act.dim(0);
    inner_->MlpDown(args);
  }

  void DoNormRouterTopK(const kernels::NormRouterTopKArgs& args) override {
    inner_->NormRouterTopK(args);
  }

  void DoMoeUp(const kernels::MoeUpArgs& args) override { inner_->MoeUp(args); }

  void DoMoeDown(const kernels::MoeDownArgs& args) override { inner_->MoeDown(args); }

  void DoMoeCombine(const kernels::MoeCombineArgs& args) override { inner_->MoeCombine(args); }

  void DoMoePack(const kernels::MoePackArgs& args) override { inner_->MoePack(args); }

  void DoMoeUnpack(const kernels::MoeUnpackArgs& args) override { inner_->MoeUnpack(args); }

  void DoMoeSliceSums(const kernels::MoeSliceSumsArgs& args) override {
    inner_->MoeSliceSums(args);
  }

  void DoMoeCombineSlices(const kernels::MoeCombineSlicesArgs& args) override {
    inner_->MoeCombineSlices(args);
  }

  void DoPleInject(const kernels::PleInjectArgs& args) override { inner_->PleInject(args); }

  void DoKeepRows(const kernels::KeepRowsArgs& args) override { inner_->KeepRows(args); }

  void DoHead(const kernels::HeadArgs& args) override { inner_->Head(args); }

  void Draw(const kernels::SampleArgs& args, std::span<kernels::SampledToken> tokens) override {
    inner_->BeginStep();
    inner_->Sample(args);
    kernels::StepOutcome outcome = inner_->EndStep()->Wait();
    std::move(outcome.tokens.begin(), outcome.tokens.end(), tokens.begin());
  }

  std::unique_ptr<kernels::Backend> inner_;
  int64_t layer_tokens_ = 0;
};

}  // namespace facet::test
