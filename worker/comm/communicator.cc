#include "worker/comm/communicator.h"

#include "base/check.h"

namespace facet::worker {

Status Communicator::Dispatch(std::span<const std::byte> send, std::span<std::byte> recv) {
  return StartExchange(TransferVerb::kDispatch, send, recv);
}

Status Communicator::Combine(std::span<const std::byte> send, std::span<std::byte> recv) {
  return StartExchange(TransferVerb::kCombine, send, recv);
}

Status Communicator::Await(absl::Duration timeout) {
  thread_.Check();
  FACET_CHECK(in_flight_.has_value()) << "Await of nothing that was started";
  const Transfer transfer = *in_flight_;
  in_flight_.reset();
  return Finish(transfer, timeout);
}

Status Communicator::StartAllGather(std::span<const std::byte> mine, std::span<std::byte> all) {
  FACET_CHECK(!mine.empty());
  FACET_CHECK_EQ(all.size(), mine.size() * num_ranks_);
  return Begin({.verb = TransferVerb::kAllGather,
                .send = mine.data(),
                .send_stride = 0,
                .recv = all.data(),
                .block_bytes = static_cast<int64_t>(mine.size())});
}

Status Communicator::AllGather(std::span<const std::byte> mine,
                               std::span<std::byte> all,
                               absl::Duration timeout) {
  FACET_RETURN_IF_ERROR(StartAllGather(mine, all));
  return Await(timeout);
}

StatusOr<StepHeader> Communicator::Agree(const StepWish& wish, absl::Duration timeout) {
  thread_.Check();
  FACET_CHECK_GE(wish.num_tokens, 0);
  FACET_CHECK(wish.weight >= 0 && wish.weight <= kStepWeightMax) << wish.weight;
  return DoAgree(wish, timeout);
}

Status Communicator::Abort(int64_t epoch, std::string_view reason) {
  if (epoch != epoch_) {
    return FailedPrecondition("abort of epoch ", epoch, " (", reason, "): this group has epoch ",
                              epoch_);
  }
  EndGroup(reason);
  return absl::OkStatus();
}

Status Communicator::StartExchange(TransferVerb verb,
                                   std::span<const std::byte> send,
                                   std::span<std::byte> recv) {
  FACET_CHECK(!send.empty());
  FACET_CHECK_EQ(send.size(), recv.size());
  FACET_CHECK_EQ(send.size() % num_ranks_, 0U);
  const auto block_bytes = static_cast<int64_t>(send.size()) / num_ranks_;
  return Begin({.verb = verb,
                .send = send.data(),
                .send_stride = block_bytes,
                .recv = recv.data(),
                .block_bytes = block_bytes});
}

Status Communicator::Begin(Transfer transfer) {
  thread_.Check();
  FACET_CHECK(!in_flight_.has_value()) << "a transfer before the Await of the one before";
  transfer.number = num_transfers_++;
  FACET_RETURN_IF_ERROR(Start(transfer));
  in_flight_ = transfer;
  return absl::OkStatus();
}

}  // namespace facet::worker
