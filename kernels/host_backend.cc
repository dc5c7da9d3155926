#include "kernels/host_backend.h"

#include <cstring>
#include <utility>

namespace facet::kernels {
namespace {

class EndedStep final : public StepInFlight {
 public:
  explicit EndedStep(StepOutcome outcome) : outcome_(std::move(outcome)) {}

  bool draws_on_host() const override { return false; }

  StepOutcome Wait() override { return std::move(outcome_); }

 private:
  StepOutcome outcome_;
};

}  // namespace

void HostBackend::BeginStep() {
  step_begin_ = std::chrono::steady_clock::now();
  drawn_.clear();
}

std::unique_ptr<StepInFlight> HostBackend::EndStep() {
  const std::chrono::nanoseconds taken = std::chrono::steady_clock::now() - step_begin_;
  return std::make_unique<EndedStep>(
      StepOutcome{.tokens = std::move(drawn_), .device_ns = taken.count()});
}

ConstTensorView HostBackend::StageInts(std::span<const int32_t> host) {
  return ConstTensorView(host.data(), DType::kI32, {static_cast<int64_t>(host.size())});
}

AttentionBatch HostBackend::StageRows(std::span<const AttentionRow> rows, const AttentionShape&) {
  return {.rows = rows};
}

HostTable HostBackend::KeepTable(const ConstTensorView& host) { return {.view = host}; }

void HostBackend::CopyToHost(void* host, const void* device, int64_t bytes) {
  std::memcpy(host, device, static_cast<size_t>(bytes));
}

void HostBackend::DoSample(const SampleArgs& args) {
  FACET_CHECK(drawn_.empty()) << "one Sample in a step";
  drawn_.resize(args.rows.size());
  Draw(args, drawn_);
  for (size_t i = 0; i < args.rows.size(); ++i) {
    const int32_t slot = args.rows[i].slot;
    if (slot >= 0 && drawn_[i].finite) args.last_tokens.as<int32_t>()[slot] = drawn_[i].id;
  }
}

}  // namespace facet::kernels
