// What the peers whose ops run on the host, at the call, have in common: memory needs no staging,
// and a step has ended when its last op returns.
#pragma once

#include <chrono>
#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.h"

namespace facet::kernels {

class HostBackend : public Backend {
 public:
  // device_ns of a step is the time between the two.
  void BeginStep() override;
  std::unique_ptr<StepInFlight> EndStep() override;

  ConstTensorView StageInts(std::span<const int32_t> host) override;
  AttentionBatch StageRows(std::span<const AttentionRow> rows, const AttentionShape&) override;

  void SendStaged() override {}

  void RunRecorded(std::span<const int64_t>, const std::function<void()>& work) override { work(); }

  HostTable KeepTable(const ConstTensorView& host) override;
  void CopyToHost(void* host, const void* device, int64_t bytes) override;

 private:
  void DoSample(const SampleArgs& args) final;

  // tokens[i] is what args.rows[i] draws.
  virtual void Draw(const SampleArgs& args, std::span<SampledToken> tokens) = 0;

  std::chrono::steady_clock::time_point step_begin_;
  std::vector<SampledToken> drawn_;  // In this step.
};

}  // namespace facet::kernels
