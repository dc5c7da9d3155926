#include "worker/model/expert_exchange.h"

#include <algorithm>
#include <limits>
#include <span>

#include "base/check.h"
#include "base/clock.h"
#include "worker/comm/rank_blocks.h"

namespace facet::worker {
namespace {

using kernels::ConstTensorView;
using kernels::DType;
using kernels::MoeDispatch;
using kernels::TensorView;

// Tokens of a rank at which the forms are measured. Beyond the last, bytes alone decide.
constexpr int64_t kMeasuredTokens[] = {1, 4, 16, 64, 256};
constexpr MoeDispatch kForms[] = {MoeDispatch::kAllToAll, MoeDispatch::kAllGather};
constexpr int kMeasuredRuns = 3;  // The best counts; one more goes before them.

std::span<std::byte> BytesOf(const kernels::Buffer& buffer, int64_t bytes) {
  FACET_CHECK_LE(bytes, buffer.bytes());
  return {static_cast<std::byte*>(buffer.data()), static_cast<size_t>(bytes)};
}

}  // namespace

ExchangeBuffers::ExchangeBuffers(const Gemma4Config& config,
                                 const ExpertShare& share,
                                 DType dtype,
                                 const Allocate& allocate,
                                 int64_t rank_tokens_max)
    : tokens_max(rank_tokens_max) {
  const int64_t top_k = config.top_k_experts;
  const int64_t num_rows = tokens_max * share.num_ranks;
  const int64_t element = kernels::SizeOf(dtype);
  const int64_t block_bytes =
      kernels::MoeRowLayout(dtype, config.hidden, top_k).Blocks(tokens_max).block_bytes();
  const int64_t slices = kernels::kExpertSlices / share.num_ranks;
  send = allocate(share.num_ranks * block_bytes);
  recv = allocate(share.num_ranks * block_bytes);
  places = allocate(num_rows * kernels::SizeOf(DType::kI32));
  rows = allocate(num_rows * config.hidden * element);
  topk_ids = allocate(num_rows * top_k * kernels::SizeOf(DType::kI32));
  topk_weights = allocate(num_rows * top_k * kernels::SizeOf(DType::kF32));
  act = allocate(num_rows * top_k * config.expert_intermediate * element);
  out = allocate(num_rows * top_k * config.hidden * element);
  sums = allocate(num_rows * slices * config.hidden * element);
  recv_sums = allocate(num_rows * slices * config.hidden * element);
  expert_tokens = allocate(config.num_experts * static_cast<int64_t>(sizeof(int64_t)));
}

ExpertExchange::ExpertExchange(const Gemma4Config& config,
                               DType dtype,
                               kernels::Backend& backend,
                               const Options& options)
    : config_(config),
      dtype_(dtype),
      backend_(backend),
      share_(options.share),
      forced_form_(options.form),
      buffers_(
          config,
          options.share,
          dtype,
          [&](int64_t bytes) { return backend.Allocate(bytes); },
          options.tokens_max) {}

Status ExpertExchange::SetCommunicator(Communicator* communicator, absl::Duration timeout) {
  communicator_ = communicator;
  choices_.clear();
  capacity_ = 0;
  if (communicator == nullptr) return absl::OkStatus();
  FACET_CHECK_EQ(communicator->rank(), share_.rank);
  FACET_CHECK_EQ(communicator->num_ranks(), share_.num_ranks);
  if (forced_form_) {
    choices_ = {{.form = *forced_form_}};
    return absl::OkStatus();
  }
  Status status = Measure(timeout);
  capacity_ = 0;
  if (!status.ok()) communicator_ = nullptr;
  return status;
}

Status ExpertExchange::Measure(absl::Duration timeout) {
  deadline_ns_ = Clock::Real().NowNs() + absl::ToInt64Nanoseconds(timeout);
  std::vector<int64_t> capacities;
  std::vector<float> mine;  // [capacities, forms], seconds
  for (const int64_t capacity : kMeasuredTokens) {
    if (capacity > buffers_.tokens_max) break;
    capacities.push_back(capacity);
    for (const MoeDispatch form : kForms) {
      FACET_ASSIGN_OR_RETURN(const float seconds, SecondsOf(form, capacity));
      mine.push_back(seconds);
    }
  }
  // The communicator carries what the backend's ops can read.
  const auto count = static_cast<int64_t>(mine.size());
  const kernels::Buffer sent =
      backend_.Upload(ConstTensorView(mine.data(), DType::kF32, {count}), DType::kF32);
  const kernels::Buffer received = backend_.Allocate(share_.num_ranks * sent.bytes());
  FACET_RETURN_IF_ERROR(communicator_->StartAllGather(BytesOf(sent, sent.bytes()),
                                                      BytesOf(received, received.bytes())));
  FACET_RETURN_IF_ERROR(Await());
  FACET_RETURN_IF_ERROR(Synchronize());
  std::vector<float> all(static_cast<size_t>(share_.num_ranks) * mine.size());
  backend_.CopyToHost(all.data(), received.data(), received.bytes());

  for (size_t i = 0; i < capacities.size(); ++i) {
    Choice choice{.capacity_min = i == 0 ? 0 : capacities[i]};
    float best = std::numeric_limits<float>::infinity();
    for (size_t f = 0; f < std::size(kForms); ++f) {
      float slowest = 0;
      for (size_t at = i * std::size(kForms) + f; at < all.size(); at += mine.size()) {
        slowest = std::max(slowest, all[at]);
      }
      if (slowest >= best) continue;
      best = slowest;
      choice.form = kForms[f];
    }
    choices_.push_back(choice);
  }
  return absl::OkStatus();
}

StatusOr<float> ExpertExchange::SecondsOf(MoeDispatch form, int64_t capacity) {
  form_ = form;
  capacity_ = capacity;
  int64_t best_ns = std::numeric_limits<int64_t>::max();
  for (int run = -1; run < kMeasuredRuns; ++run) {
    const int64_t start_ns = Clock::Real().NowNs();
    FACET_RETURN_IF_ERROR(StartDispatch());
    FACET_RETURN_IF_ERROR(Await());
    FACET_RETURN_IF_ERROR(Synchronize());
    if (run >= 0) best_ns = std::min(best_ns, Clock::Real().NowNs() - start_ns);
  }
  return static_cast<float>(best_ns) * 1e-9F;
}

MoeDispatch ExpertExchange::FormFor(int64_t capacity) const {
  FACET_CHECK(!choices_.empty()) << "no communicator";
  MoeDispatch form = choices_[0].form;
  for (const Choice& choice : choices_) {
    if (choice.capacity_min <= capacity) form = choice.form;
  }
  return form;
}

Status ExpertExchange::BeginStep(int64_t rank_tokens_max, absl::Duration timeout) {
  FACET_CHECK_GE(rank_tokens_max, 1);
  capacity_ = 0;
  if (communicator_ == nullptr) {
    return FailedPrecondition("rank ", share_.rank, " of ", share_.num_ranks,
                              " has no group to share experts with");
  }
  if (rank_tokens_max > buffers_.tokens_max) {
    return ResourceExhausted("a rank of the group has ", rank_tokens_max,
                             " tokens in this step; rank ", share_.rank, " has room for ",
                             buffers_.tokens_max);
  }
  capacity_ = rank_tokens_max;
  form_ = FormFor(capacity_);
  deadline_ns_ = Clock::Real().NowNs() + absl::ToInt64Nanoseconds(timeout);
  return absl::OkStatus();
}

kernels::BlockLayout ExpertExchange::Layout() const {
  return kernels::MoeRowLayout(dtype_, config_.hidden, config_.top_k_experts).Blocks(capacity_);
}

Status ExpertExchange::Dispatch(const ConstTensorView& expert_in,
                                const ConstTensorView& topk_ids,
                                const ConstTensorView& topk_weights) {
  num_tokens_ = expert_in.dim(0);
  const int64_t num_blocks = form_ == MoeDispatch::kAllGather ? 1 : share_.num_ranks;
  backend_.MoePack(
      {.expert_in = expert_in,
       .topk_ids = topk_ids,
       .topk_weights = topk_weights,
       .num_experts = config_.num_experts,
       .form = form_,
       .capacity = capacity_,
       .blocks = TensorView(buffers_.send.data(), DType::kI32,
                            {num_blocks, Layout().block_bytes() / kernels::SizeOf(DType::kI32)}),
       .places = TensorView(buffers_.places.data(), DType::kI32, {num_tokens_, share_.num_ranks}),
       .expert_tokens = static_cast<int64_t*>(buffers_.expert_tokens.data())});
  return StartDispatch();
}

Status ExpertExchange::StartDispatch() {
  const int64_t block_bytes = Layout().block_bytes();
  const std::span<std::byte> recv = BytesOf(buffers_.recv, share_.num_ranks * block_bytes);
  if (form_ == MoeDispatch::kAllGather) {
    return communicator_->StartAllGather(BytesOf(buffers_.send, block_bytes), recv);
  }
  return communicator_->Dispatch(BytesOf(buffers_.send, share_.num_ranks * block_bytes), recv);
}

Status ExpertExchange::Await() { return communicator_->Await(TimeLeft()); }

Status ExpertExchange::Synchronize() { return communicator_->Synchronize(TimeLeft()); }

absl::Duration ExpertExchange::TimeLeft() const {
  return absl::Nanoseconds(std::max<int64_t>(0, deadline_ns_ - Clock::Real().NowNs()));
}

Status ExpertExchange::CheckCounts() const {
  const RankBlocks blocks(share_.num_ranks, Layout());
  for (int32_t from = 0; from < share_.num_ranks; ++from) {
    Status status = blocks.CountOf(BytesOf(buffers_.recv, blocks.num_bytes()), from).status();
    if (status.ok()) continue;
    (void)communicator_->Abort(communicator_->epoch(), MessageOf(status));
    return status;
  }
  return absl::OkStatus();
}

StatusOr<ExpertRows> ExpertExchange::Receive() {
  FACET_RETURN_IF_ERROR(Await());
  if (backend_.ReadsHostMemory()) FACET_RETURN_IF_ERROR(CheckCounts());
  const int64_t num_rows = share_.num_ranks * capacity_;
  const int64_t top_k = config_.top_k_experts;
  const ExpertRows rows = {
      .hidden = TensorView(buffers_.rows.data(), dtype_, {num_rows, config_.hidden}),
      .topk_ids = TensorView(buffers_.topk_ids.data(), DType::kI32, {num_rows, top_k}),
      .topk_weights = TensorView(buffers_.topk_weights.data(), DType::kF32, {num_rows, top_k}),
      .act =
          TensorView(buffers_.act.data(), dtype_, {num_rows, top_k, config_.expert_intermediate}),
      .out = TensorView(buffers_.out.data(), dtype_, {num_rows, top_k, config_.hidden})};
  backend_.MoeUnpack(
      {.blocks = ConstTensorView(
           buffers_.recv.data(), DType::kI32,
           {share_.num_ranks, Layout().block_bytes() / kernels::SizeOf(DType::kI32)}),
       .capacity = capacity_,
       .first_expert = share_.first_expert(config_),
       .num_experts_here = share_.num_experts(config_),
       .rows = rows.hidden,
       .topk_ids = rows.topk_ids,
       .topk_weights = rows.topk_weights});
  return rows;
}

StatusOr<ReceivedSums> ExpertExchange::Combine(const ExpertRows& rows) {
  const int64_t slices = kernels::kExpertSlices / share_.num_ranks;
  const int64_t num_rows = rows.hidden.dim(0);
  backend_.MoeSliceSums(
      {.out = rows.out,
       .topk_ids = rows.topk_ids,
       .topk_weights = rows.topk_weights,
       .num_experts_here = share_.num_experts(config_),
       .sums = TensorView(buffers_.sums.data(), dtype_, {num_rows, slices, config_.hidden})});
  const int64_t bytes = num_rows * slices * config_.hidden * kernels::SizeOf(dtype_);
  FACET_RETURN_IF_ERROR(
      communicator_->Combine(BytesOf(buffers_.sums, bytes), BytesOf(buffers_.recv_sums, bytes)));
  FACET_RETURN_IF_ERROR(Await());
  return ReceivedSums{.sums = ConstTensorView(buffers_.recv_sums.data(), dtype_,
                                              {num_rows * slices, config_.hidden}),
                      .places = ConstTensorView(buffers_.places.data(), DType::kI32,
                                                {num_tokens_, share_.num_ranks}),
                      .capacity = capacity_};
}

std::vector<int64_t> ExpertExchange::ExpertTokens() const {
  std::vector<int64_t> tokens(config_.num_experts);
  backend_.CopyToHost(tokens.data(), buffers_.expert_tokens.data(),
                      static_cast<int64_t>(tokens.size() * sizeof tokens[0]));
  return tokens;
}

}  // namespace facet::worker
