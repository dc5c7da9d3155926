// Ranks that share experts on the emulated CUDA backend: two of them give the bits of one.
#include <gtest/gtest.h>

#include <utility>

#include "kernels/cuda/cuda_backend.h"
#include "tests/support/expert_ranks.h"

namespace facet::test {
namespace {

using worker::Communicator;
using worker::Transfer;
using worker::TransferVerb;

// Stands in for a communicator that enqueues on the backend's stream: lets the device finish what
// is to be sent, then has threads copy it. The emulator's device memory is the host's.
class DrainingCommunicator final : public Communicator {
 public:
  DrainingCommunicator(std::unique_ptr<Communicator> inner, kernels::Backend& backend)
      : Communicator(inner->rank(), inner->num_ranks()),
        inner_(std::move(inner)),
        backend_(backend),
        word_(backend.Allocate(4)) {
    set_epoch(inner_->epoch());
  }

  bool called() const override { return inner_->called(); }

  Status status() override { return inner_->status(); }

  void SetListener(std::function<void()> listener) override {
    inner_->SetListener(std::move(listener));
  }

 private:
  Status Start(const Transfer& transfer) override {
    int32_t word = 0;
    backend_.CopyToHost(&word, word_.data(), sizeof word);  // Waits for the ops before it.
    const std::span all(transfer.recv, transfer.block_bytes * num_ranks());
    if (transfer.verb == TransferVerb::kAllGather) {
      return inner_->StartAllGather({transfer.send, static_cast<size_t>(transfer.block_bytes)},
                                    all);
    }
    const std::span send(transfer.send, all.size());
    return transfer.verb == TransferVerb::kDispatch ? inner_->Dispatch(send, all)
                                                    : inner_->Combine(send, all);
  }

  Status Finish(const Transfer&, absl::Duration timeout) override { return inner_->Await(timeout); }

  StatusOr<worker::StepHeader> DoAgree(const worker::StepWish& wish,
                                       absl::Duration timeout) override {
    return inner_->Agree(wish, timeout);
  }

  void EndGroup(std::string_view reason) override { (void)inner_->Abort(epoch(), reason); }

  const std::unique_ptr<Communicator> inner_;
  kernels::Backend& backend_;
  const kernels::Buffer word_;
};

TEST(CudaExpertParallelTest, TwoRanksGiveTheBitsOfOne) {
  RankSetup setup = {
      .dtype = kernels::DType::kBf16,
      .make_backend = [] { return std::make_unique<kernels::CudaBackend>(kernels::CudaOptions()); },
      .wrap = [](std::unique_ptr<Communicator> inner,
                 kernels::Backend& backend) -> std::unique_ptr<Communicator> {
        return std::make_unique<DrainingCommunicator>(std::move(inner), backend);
      }};
  const std::vector<FedSequence> want = FeedOverRanks(setup, 1);
  for (const kernels::MoeDispatch form :
       {kernels::MoeDispatch::kAllToAll, kernels::MoeDispatch::kAllGather}) {
    setup.form = form;
    ExpectSameLogits(FeedOverRanks(setup, 2), want);
  }
}

}  // namespace
}  // namespace facet::test
