#include "worker/service/worker_session.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <optional>
#include <utility>

#include "base/log.h"
#include "proto/grpc_status.h"

namespace facet::worker {
namespace {

constexpr size_t kOutboxMax = 4096;  // Messages; a router that is so far behind is cut off.
constexpr int64_t kHeartbeatMs = 100;
constexpr int64_t kLeaseMsDefault = 10'000;  // Until the first renewal.
constexpr int32_t kLogprobsMax = 20;
constexpr int kStopIdsMax = 256;
constexpr int kBiasesMax = 300;

Status CheckRange(const char* field, double value, double least, double most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return InvalidArgument(field, " is ", value, "; it must be in [", least, ", ", most, "]");
}

template <typename Ids>
Status CheckIds(const char* field, const Ids& ids, int32_t vocab) {
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab) {
      return InvalidArgument(field, " holds ", id, "; ids are in [0, ", vocab - 1, "]");
    }
  }
  return absl::OkStatus();
}

StatusOr<SamplingParams> CheckSampling(const v1::Sampling& wire, int32_t vocab) {
  FACET_RETURN_IF_ERROR(CheckRange("temperature", wire.temperature(), 0, 2));
  FACET_RETURN_IF_ERROR(CheckRange("top_k", wire.top_k(), 0, 1 << 24));
  FACET_RETURN_IF_ERROR(CheckRange("top_p", wire.top_p(), 0, 1));
  FACET_RETURN_IF_ERROR(CheckRange("min_p", wire.min_p(), 0, 1));
  FACET_RETURN_IF_ERROR(CheckRange("presence_penalty", wire.presence_penalty(), -2, 2));
  FACET_RETURN_IF_ERROR(CheckRange("frequency_penalty", wire.frequency_penalty(), -2, 2));
  FACET_RETURN_IF_ERROR(CheckRange("repetition_penalty", wire.repetition_penalty(), 0, 2));
  if (wire.logit_bias_size() > kBiasesMax) {
    return InvalidArgument("logit_bias has ", wire.logit_bias_size(), " entries; at most ",
                           kBiasesMax);
  }
  SamplingParams params{
      .temperature = wire.temperature(),
      .top_k = wire.top_k(),
      .top_p = wire.top_p() == 0 ? 1 : wire.top_p(),
      .min_p = wire.min_p(),
      .seed = wire.seed(),
      .presence_penalty = wire.presence_penalty(),
      .frequency_penalty = wire.frequency_penalty(),
      .repetition_penalty = wire.repetition_penalty() == 0 ? 1 : wire.repetition_penalty()};
  for (const auto& [id, value] : wire.logit_bias()) {
    FACET_RETURN_IF_ERROR(CheckIds("logit_bias", std::initializer_list<int32_t>{id}, vocab));
    FACET_RETURN_IF_ERROR(CheckRange("logit_bias", value, -100, 100));
    params.logit_bias.emplace_back(id, value);
  }
  std::sort(params.logit_bias.begin(), params.logit_bias.end());
  return params;
}

v1::Finish ToWire(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return v1::FINISH_UNSPECIFIED;
    case FinishReason::kStop:
      return v1::FINISH_STOP;
    case FinishReason::kLength:
      return v1::FINISH_LENGTH;
    case FinishReason::kCancelled:
      return v1::FINISH_CANCELLED;
    case FinishReason::kDeadline:
      return v1::FINISH_DEADLINE;
    case FinishReason::kError:
      return v1::FINISH_ERROR;
  }
  return v1::FINISH_ERROR;
}

void FillCredits(const Credits& credits, v1::Credits& wire) {
  wire.set_sequences(credits.sequences);
  wire.set_prefill_tokens(credits.prefill_tokens);
  wire.set_sequences_received(credits.sequences_received);
  wire.set_prefill_tokens_received(credits.prefill_tokens_received);
}

void FillLoad(const Load& load, v1::Load& wire) {
  wire.set_sequences_running(load.sequences_running);
  wire.set_sequences_waiting(load.sequences_waiting);
  wire.set_prefill_tokens_waiting(load.prefill_tokens_waiting);
  wire.set_kv_bytes_used(load.kv_bytes_used);
  wire.set_kv_bytes_total(load.kv_bytes_total);
  wire.set_prompt_tokens_total(load.prompt_tokens_total);
  wire.set_output_tokens_total(load.output_tokens_total);
  wire.set_busy_ns_total(load.busy_ns_total);
  wire.set_held_ns_total(load.held_ns_total);
  wire.set_prefill_tokens_per_second(load.prefill_tokens_per_second);
  wire.set_step_ms_predicted(load.step_ms_predicted);
}

void FillDelta(const TokenDelta& delta, v1::TokenDelta& wire) {
  wire.set_request_id(delta.request_id);
  wire.set_epoch(delta.epoch);
  wire.set_first_position(static_cast<uint32_t>(delta.first_position));
  for (const int32_t id : delta.token_ids) wire.add_token_ids(id);
  for (const RowResult& row : delta.logprobs) {
    v1::TokenLogprob& logprob = *wire.add_logprobs();
    logprob.set_logprob(row.logprob);
    for (const int32_t id : row.top_ids) logprob.add_top_ids(id);
    for (const float value : row.top_logprobs) logprob.add_top_logprobs(value);
  }
  wire.set_finish(ToWire(delta.finish));
  wire.set_prefill_ns(delta.prefill_ns);
  wire.set_decode_ns(delta.decode_ns);
  wire.set_cost_nano_usd(delta.cost_nano_usd);
}

}  // namespace

// One router's stream. gRPC serialises OnReadDone with itself and OnWriteDone with itself; the
// outbox has a lock because the engine and the heartbeat fill it.
class WorkerService::Reactor final
    : public grpc::ServerBidiReactor<v1::RouterMessage, v1::WorkerMessage> {
 public:
  Reactor(WorkerService& service, uint64_t session_id)
      : service_(service), session_id_(session_id) {
    lease_until_ns_ = service.clock_.NowNs() + kLeaseMsDefault * 1'000'000;
    StartRead(&incoming_);
  }

  int64_t lease_until_ns() const { return lease_until_ns_.load(); }

  void Enqueue(v1::WorkerMessage message) {
    absl::MutexLock lock(&mutex_);
    if (finishing_ || after_outbox_) return;
    if (outbox_.size() >= kOutboxMax) {
      EndLocked(ResourceExhausted("the router reads too slowly"));
      return;
    }
    outbox_.push_back(std::move(message));
    WriteNextLocked();
  }

  void End(const Status& status) {
    absl::MutexLock lock(&mutex_);
    EndLocked(status);
  }

  // As End, once what is in the outbox has been written: the last tokens may be there.
  void EndAfterOutbox(Status status) {
    absl::MutexLock lock(&mutex_);
    after_outbox_ = std::move(status);
    WriteNextLocked();
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      End(absl::OkStatus());
      return;
    }
    const Status status = Handle(incoming_);
    if (!status.ok()) {
      End(status);
      return;
    }
    StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (!outbox_.empty()) outbox_.pop_front();
    if (!ok) EndLocked(Unavailable("the stream broke"));
    if (finishing_) {
      FinishLocked();
    } else {
      WriteNextLocked();
    }
  }

  void OnCancel() override { End(absl::CancelledError("the router went away")); }

  void OnDone() override {
    service_.Remove(session_id_);
    delete this;
  }

 private:
  Status Handle(const v1::RouterMessage& message) {
    if (!said_hello_) {
      if (!message.has_hello()) return FailedPrecondition("the first message must be Hello");
      said_hello_ = true;
      engine().OpenSession(session_id_);
      service_.journal_.OnSessionOpened(session_id_);
      return absl::OkStatus();
    }
    switch (message.message_case()) {
      case v1::RouterMessage::kSubmit:
        OnSubmit(message.submit());
        break;
      case v1::RouterMessage::kCancel:
        OnCancelRequest(message.cancel());
        break;
      case v1::RouterMessage::kLease:
        lease_until_ns_ = service_.clock_.NowNs() + message.lease().lease_ms() * 1'000'000;
        break;
      case v1::RouterMessage::kConfirm:
        service_.journal_.Confirm(message.confirm());
        break;
      default:
        break;
    }
    return absl::OkStatus();
  }

  void OnSubmit(const v1::Submit& submit) {
    StatusOr<SequenceRequest> request = service_.CheckSubmit(submit);
    Status status = request.status();
    if (status.ok()) {
      request->session_id = session_id_;
      status = engine().AddRequest(*std::move(request));
    }
    if (status.ok()) return;
    v1::WorkerMessage answer;
    v1::SubmitRefused& refused = *answer.mutable_refused();
    refused.set_request_id(submit.request_id());
    refused.set_epoch(submit.epoch());
    refused.set_code(static_cast<int32_t>(status.code()));
    refused.set_message(MessageOf(status));
    Enqueue(std::move(answer));
  }

  void OnCancelRequest(const v1::Cancel& cancel) {
    const bool deadline = cancel.reason() == v1::CANCEL_REASON_DEADLINE;
    engine().CancelRequest(session_id_, cancel.request_id(), cancel.epoch(),
                           deadline ? FinishReason::kDeadline : FinishReason::kCancelled,
                           cancel.reason() != v1::CANCEL_REASON_STOP_STRING);
  }

  // Set before any session is accepted.
  Engine& engine() {
    absl::MutexLock lock(&service_.mutex_);
    return *service_.engine_;
  }

  void WriteNextLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || finishing_) return;
    if (outbox_.empty()) {
      if (after_outbox_) EndLocked(*after_outbox_);
      return;
    }
    writing_ = true;
    StartWrite(&outbox_.front());
  }

  void EndLocked(const Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (finishing_) return;
    finishing_ = true;
    final_status_ = status;
    if (!writing_) FinishLocked();
  }

  void FinishLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (finished_) return;
    finished_ = true;
    Finish(ToGrpcStatus(final_status_));
  }

  WorkerService& service_;
  const uint64_t session_id_;
  v1::RouterMessage incoming_;
  bool said_hello_ = false;
  std::atomic<int64_t> lease_until_ns_{0};
  absl::Mutex mutex_;
  std::deque<v1::WorkerMessage> outbox_ ABSL_GUARDED_BY(mutex_);
  std::optional<Status> after_outbox_ ABSL_GUARDED_BY(mutex_);  // Ends so when it is empty.
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finishing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  Status final_status_ ABSL_GUARDED_BY(mutex_);
};

WorkerService::WorkerService(const Clock& clock, UsageJournalOptions journal)
    : clock_(clock),
      not_ready_(WithReason(Unavailable("the worker loads its weights"), "LOADING")),
      journal_(std::move(journal),
               clock,
               [this](uint64_t session_id, v1::WorkerMessage message) {
                 Enqueue(session_id, std::move(message));
               }),
      heartbeat_thread_([this] { HeartbeatMain(); }) {}

WorkerService::~WorkerService() { Shutdown(); }

void WorkerService::Serve(Engine& engine,
                          const v1::DescribeResponse& description,
                          std::function<void()> on_drain) {
  absl::MutexLock lock(&mutex_);
  engine_ = &engine;
  description_ = description;
  on_drain_ = std::move(on_drain);
  not_ready_ = absl::OkStatus();
}

void WorkerService::SetNotReady(Status why) {
  absl::MutexLock lock(&mutex_);
  not_ready_ = std::move(why);
  for (auto& [id, reactor] : sessions_) reactor->End(not_ready_);
}

void WorkerService::OnLost(const Status& cause) {
  SetNotReady(WithReason(Unavailable("its group forms anew: ", MessageOf(cause)), "GROUP_FORMING"));
}

void WorkerService::Shutdown() {
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
    for (auto& [id, reactor] : sessions_) {
      reactor->EndAfterOutbox(Unavailable("the worker ends"));
    }
  }
  if (heartbeat_thread_.joinable()) heartbeat_thread_.join();
}

grpc::ServerUnaryReactor* WorkerService::Describe(grpc::CallbackServerContext* context,
                                                  const v1::DescribeRequest* /*request*/,
                                                  v1::DescribeResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  absl::MutexLock lock(&mutex_);
  if (not_ready_.ok()) {
    *response = description_;
    response->set_price_usd_per_hour(static_cast<double>(engine_->Stats().nano_usd_per_hour) / 1e9);
  }
  reactor->Finish(ToGrpcStatus(not_ready_));
  return reactor;
}

grpc::ServerBidiReactor<v1::RouterMessage, v1::WorkerMessage>* WorkerService::Session(
    grpc::CallbackServerContext* /*context*/) {
  // Ends at once; deletes itself.
  class Refuse final : public grpc::ServerBidiReactor<v1::RouterMessage, v1::WorkerMessage> {
   public:
    explicit Refuse(const Status& status) { Finish(ToGrpcStatus(status)); }

    void OnDone() override { delete this; }
  };

  absl::MutexLock lock(&mutex_);
  if (!not_ready_.ok()) return new Refuse(not_ready_);
  if (ending_) return new Refuse(Unavailable("the worker ends"));
  const uint64_t id = next_session_id_++;
  auto* reactor = new Reactor(*this, id);
  sessions_[id] = reactor;
  return reactor;
}

grpc::ServerUnaryReactor* WorkerService::Drain(grpc::CallbackServerContext* context,
                                               const v1::DrainRequest* /*request*/,
                                               v1::DrainResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  std::function<void()> on_drain;
  {
    absl::MutexLock lock(&mutex_);
    if (engine_ == nullptr) {
      reactor->Finish(ToGrpcStatus(not_ready_));
      return reactor;
    }
    const Load load = engine_->Stats().load;
    response->set_sequences_left(load.sequences_running + load.sequences_waiting);
    on_drain = on_drain_;
  }
  if (on_drain) on_drain();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

void WorkerService::OnStepFrame(StepFrame frame) {
  v1::WorkerMessage message;
  v1::StepFrame& wire = *message.mutable_step();
  wire.set_step(frame.step);
  wire.set_step_ns(frame.step_ns);
  for (const TokenDelta& delta : frame.deltas) FillDelta(delta, *wire.add_deltas());
  FillCredits(frame.credits, *wire.mutable_credits());
  FillLoad(frame.load, *wire.mutable_load());
  Enqueue(frame.session_id, std::move(message));
}

void WorkerService::OnRefusal(Refusal refusal) {
  v1::WorkerMessage message;
  v1::SubmitRefused& wire = *message.mutable_refused();
  wire.set_request_id(refusal.request_id);
  wire.set_epoch(refusal.epoch);
  wire.set_code(static_cast<int32_t>(refusal.status.code()));
  wire.set_message(MessageOf(refusal.status));
  Enqueue(refusal.session_id, std::move(message));
}

void WorkerService::OnSettled(SettledAccount account) {
  facet::v1::UsageRecord record;
  record.set_request_id(std::move(account.request_id));
  record.set_epoch(account.epoch);
  record.set_settled_by("worker");
  record.set_tenant(std::move(account.tenant));
  record.set_finish(NameOf(account.finish));
  record.set_prompt_tokens(account.num_prompt_tokens);
  record.set_output_tokens(account.num_output_tokens);
  record.set_prefill_ns(account.prefill.ns);
  record.set_decode_ns(account.decode.ns);
  record.set_prefill_nano_usd(account.prefill.nano_usd);
  record.set_decode_nano_usd(account.decode.nano_usd);
  for (const auto& [reason, ns] : account.wasted_ns) (*record.mutable_wasted_ns())[reason] = ns;
  record.set_start_unix_ns(account.start_unix_ns);
  record.set_first_token_unix_ns(account.first_token_unix_ns);
  record.set_last_token_unix_ns(account.last_token_unix_ns);
  record.set_end_unix_ns(account.end_unix_ns);
  {
    absl::MutexLock lock(&mutex_);
    record.set_worker_epoch(description_.worker_epoch());
    record.set_model(description_.model());
    record.set_worker(StrCat(description_.pool(), "/", description_.index()));
    record.set_device_class(description_.device_class());
    record.set_numerics_id(description_.numerics_id());
  }
  journal_.Add(account.session_id, std::move(record));
}

StatusOr<SequenceRequest> WorkerService::CheckSubmit(const v1::Submit& submit) const {
  int32_t vocab = 0;
  {
    absl::MutexLock lock(&mutex_);
    vocab = description_.vocab();
  }
  if (submit.request_id().empty()) return InvalidArgument("request_id is empty");
  if (submit.prompt_ids().empty()) return InvalidArgument("prompt_ids is empty; at least one id");
  FACET_RETURN_IF_ERROR(CheckIds("prompt_ids", submit.prompt_ids(), vocab));
  FACET_RETURN_IF_ERROR(CheckIds("committed_ids", submit.committed_ids(), vocab));
  FACET_RETURN_IF_ERROR(CheckIds("stop_token_ids", submit.stop_token_ids(), vocab));
  if (submit.stop_token_ids_size() > kStopIdsMax) {
    return InvalidArgument("stop_token_ids has ", submit.stop_token_ids_size(),
                           " entries; at most ", kStopIdsMax);
  }
  if (submit.new_tokens_max() <= submit.committed_ids_size()) {
    return InvalidArgument("new_tokens_max is ", submit.new_tokens_max(), "; at least ",
                           submit.committed_ids_size() + 1, " with ", submit.committed_ids_size(),
                           " tokens committed");
  }
  FACET_RETURN_IF_ERROR(CheckRange("logprobs", submit.logprobs(), 0, kLogprobsMax));
  FACET_ASSIGN_OR_RETURN(SamplingParams sampling, CheckSampling(submit.sampling(), vocab));
  sampling.new_tokens_min = submit.new_tokens_min();
  sampling.num_logprobs = submit.logprobs();
  sampling.barred_before_min.assign(submit.stop_token_ids().begin(), submit.stop_token_ids().end());
  return SequenceRequest{
      .request_id = submit.request_id(),
      .epoch = submit.epoch(),
      .tenant = submit.tenant().empty() ? "default" : submit.tenant(),
      .prompt_ids = {submit.prompt_ids().begin(), submit.prompt_ids().end()},
      .committed_ids = {submit.committed_ids().begin(), submit.committed_ids().end()},
      .sampling = std::move(sampling),
      .stop_ids = {submit.stop_token_ids().begin(), submit.stop_token_ids().end()},
      .new_tokens_max = submit.new_tokens_max(),
      .deadline_unix_ns = submit.deadline_unix_ms() * 1'000'000};
}

void WorkerService::Enqueue(uint64_t session_id, v1::WorkerMessage message) {
  absl::MutexLock lock(&mutex_);
  const auto it = sessions_.find(session_id);
  if (it != sessions_.end()) it->second->Enqueue(std::move(message));
}

void WorkerService::Remove(uint64_t session_id) {
  journal_.OnSessionClosed(session_id);
  absl::MutexLock lock(&mutex_);
  sessions_.erase(session_id);
  if (engine_ != nullptr) engine_->CloseSession(session_id);
}

void WorkerService::HeartbeatMain() {
  absl::MutexLock lock(&mutex_);
  while (!ending_) {
    const auto ended = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return ending_; };
    mutex_.AwaitWithTimeout(absl::Condition(&ended), absl::Milliseconds(kHeartbeatMs));
    if (engine_ == nullptr || ending_) continue;
    const EngineStats stats = engine_->Stats();
    const int64_t now_ns = clock_.NowNs();
    v1::WorkerMessage message;
    v1::Heartbeat& beat = *message.mutable_heartbeat();
    beat.set_step(stats.steps);
    if (stats.step_start_ns != 0) {
      beat.set_step_elapsed_ms((now_ns - stats.step_start_ns) / 1'000'000);
    }
    const double predicted_ms = std::max(stats.step_predicted_ns / 1e6, stats.step_ms_mean);
    beat.set_step_predicted_ms(static_cast<int64_t>(std::ceil(predicted_ms)));
    beat.set_draining(stats.draining);
    beat.set_ready(true);
    if (!stats.expert_choices.empty()) {
      *beat.mutable_experts()->mutable_choices() = {stats.expert_choices.begin(),
                                                    stats.expert_choices.end()};
    }
    beat.set_price_usd_per_hour(static_cast<double>(stats.nano_usd_per_hour) / 1e9);
    FillLoad(stats.load, *beat.mutable_load());
    for (auto& [id, reactor] : sessions_) {
      if (now_ns > reactor->lease_until_ns()) {
        Log(kWarning, "session ended: its lease ran out", {{"session", id}});
        reactor->End(absl::DeadlineExceededError("the lease was not renewed"));
        continue;
      }
      beat.clear_credits();
      const auto credits = stats.credits.find(id);
      if (credits != stats.credits.end()) FillCredits(credits->second, *beat.mutable_credits());
      reactor->Enqueue(message);
    }
  }
}

}  // namespace facet::worker
