#include "router/relay.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/overloaded.h"
#include "proto/grpc_status.h"

namespace facet::router {
namespace {

using worker::v1::CancelReason;
using worker::v1::Finish;
using worker::v1::RouterMessage;
using worker::v1::StepFrame;
using worker::v1::TokenDelta;

// Events that wait: each request brings a handful, and both requests and unread frames are bounded.
constexpr size_t kShardInboxMax = 1 << 20;

double Ms(int64_t ns) { return static_cast<double>(ns) / 1e6; }

}  // namespace

RelayShard::RelayShard(RelayOptions options,
                       const Clock& clock,
                       MetricsPage<RouterMetrics>& metrics,
                       UsageMeter& usage_meter,
                       RelayPorts& ports)
    : options_(options),
      clock_(clock),
      metrics_(metrics),
      usage_meter_(usage_meter),
      ports_(ports),
      inbox_(kShardInboxMax) {}

void RelayShard::Post(RelayEvent event) {
  const bool posted = inbox_.TryPush(std::move(event));
  FACET_CHECK(posted || inbox_.closed()) << "a relay shard's inbox is full";
}

void RelayShard::Run() {
  thread_.Rebind();
  while (true) {
    std::vector<RelayEvent> events = inbox_.WaitAndDrain(TimeToNextDeadline());
    if (events.empty() && inbox_.closed()) return;
    Turn(std::move(events));
  }
}

absl::Duration RelayShard::TimeToNextDeadline() const {
  if (next_deadline_ns_ == INT64_MAX) return absl::InfiniteDuration();
  return absl::Nanoseconds(std::max<int64_t>(next_deadline_ns_ - clock_.NowNs(), 0));
}

void RelayShard::Turn(std::vector<RelayEvent> events) {
  thread_.Check();
  for (RelayEvent& event : events) {
    std::visit(Overloaded{[this](std::unique_ptr<LiveRequest>& it) { OnRegister(std::move(it)); },
                          [this](const RequestDispatched& it) { OnDispatched(it); },
                          [this](const FrameArrived& it) { OnStepFrame(it); },
                          [this](SettledArrived& it) { OnSettled(it); },
                          [this](const SubmitWasRefused& it) { OnRefused(it); },
                          [this](const ClientGone& it) { OnClientGone(it.request_id); },
                          [this](const EndRequest& it) {
                            LiveRequest* request = Find(it.request_id);
                            if (request != nullptr) {
                              End(*request, it.status, v1::FINISH_REASON_UNSPECIFIED);
                            }
                          },
                          [this](const WorkerLost& it) { OnWorkerLost(it); },
                          [this](const EndAll& it) { OnEndAll(it); }},
               event);
  }
  EndOverdue();
}

// All that one engine step brought for the requests of this shard.
void RelayShard::OnStepFrame(const FrameArrived& arrived) {
  for (const TokenDelta& delta : arrived.frame.deltas()) {
    accounts_.Charge(delta, clock_.UnixNs());
    LiveRequest* request = Find(delta.request_id());
    if (request == nullptr) {
      TakeLate(delta);
      continue;
    }
    if (!Commit(*request, delta)) continue;  // 8
    std::vector<AnswerEvent> events;
    const bool stopped = Detokenize(*request, delta, events);  // 9
    Account(*request, delta);                                  // 10
    SendAccepted(*request);
    const std::string request_id = request->id();
    Deliver(*request, std::move(events));
    if (Find(request_id) == nullptr) continue;  // Its client is too slow.
    if (stopped) {
      if (delta.finish() == Finish::FINISH_UNSPECIFIED) {
        CancelOnWorker(*request, CancelReason::CANCEL_REASON_STOP_STRING);
      }
      FinishWell(*request, v1::FINISH_REASON_STOP);
    } else if (delta.finish() != Finish::FINISH_UNSPECIFIED) {
      FinishByWorker(*request, delta.finish());
    }
  }
  ports_.FrameDone(arrived.worker, arrived.session);
}

// The request ended while the worker was on its way: cancelled, overdue or stopped here, or a step
// that was planned before the worker saw the end. Its charge counts all the same.
void RelayShard::TakeLate(const TokenDelta& delta) {
  const EndedRequest* payer = accounts_.FindEnded(delta.request_id());
  if (payer == nullptr) {
    metrics_.Write()->frames_dropped.At("unknown_request").Add(1);
  } else if (delta.cost_nano_usd() != 0) {
    usage_meter_.ChargeLate(payer->model, payer->tenant, delta.cost_nano_usd());
  }
}

// True if the delta belongs to the present attempt and its tokens come next; they are then in the
// log, which is what makes them count.
bool RelayShard::Commit(LiveRequest& request, const TokenDelta& delta) {
  const std::span<const int32_t> ids(delta.token_ids().data(),
                                     static_cast<size_t>(delta.token_ids_size()));
  const TokenLog::Fit fit = request.state == LiveRequest::State::kRunning
                                ? request.log.Append(delta.epoch(), delta.first_position(), ids)
                                : TokenLog::Fit::kOtherEpoch;
  if (fit == TokenLog::Fit::kFits) return true;
  const bool position = fit == TokenLog::Fit::kWrongPosition;
  metrics_.Write()->frames_dropped.At(position ? "position" : "epoch").Add(1);
  if (position) {
    // A worker of the right epoch that skips or repeats tokens cannot be believed any more.
    const Status status =
        Internal("worker ", request.worker_name, " sent token ", delta.first_position(), " where ",
                 request.log.size(), " comes next");
    CancelOnWorker(request, CancelReason::CANCEL_REASON_UNSPECIFIED);
    End(request, status, v1::FINISH_REASON_UNSPECIFIED);
  }
  return false;
}

// Appends what the client gets to see; true if a stop string ended the answer.
bool RelayShard::Detokenize(LiveRequest& request,
                            const TokenDelta& delta,
                            std::vector<AnswerEvent>& events) {
  for (int i = 0; i < delta.token_ids_size(); ++i) {
    const auto* logprob = i < delta.logprobs_size() ? &delta.logprobs(i) : nullptr;
    if (request.text.Append(delta.token_ids(i), logprob, events)) return true;
  }
  // The ids of the last message may go with it.
  if (delta.finish() == Finish::FINISH_UNSPECIFIED) request.text.FlushIds(events);
  return false;
}

void RelayShard::Account(LiveRequest& request, const TokenDelta& delta) {
  request.prefill_device_ns += delta.prefill_ns();
  request.decode_device_ns += delta.decode_ns();
  request.cost_nano_usd += delta.cost_nano_usd();
  if (delta.token_ids_size() == 0) return;
  const int64_t now_ns = clock_.NowNs();
  {
    auto metrics = metrics_.Write();
    const std::string& model = request.request.model->name;
    if (request.first_token_ns == 0) {
      metrics->ttft.At(model).Observe(Ms(now_ns - request.arrival_ns) / 1000);
    } else {
      metrics->itl.At(model).Observe(Ms(now_ns - request.last_token_ns) / 1000);
    }
  }
  if (request.first_token_ns == 0) request.first_token_ns = now_ns;
  request.last_token_ns = now_ns;
}

void RelayShard::SendAccepted(LiveRequest& request) {
  if (std::exchange(request.accepted_sent, true)) return;
  AnswerEvent event;
  v1::Accepted& accepted = *event.mutable_accepted();
  accepted.set_request_id(request.id());
  accepted.set_model(request.request.model->name);
  accepted.set_client_request_id(request.client_request_id);
  accepted.set_prompt_tokens(request.request.submit.prompt_ids_size());
  accepted.set_worker(request.worker_name);
  accepted.set_numerics_id(request.numerics_id);
  accepted.set_seed(request.request.submit.sampling().seed());
  std::vector<AnswerEvent> events;
  events.push_back(std::move(event));
  Deliver(request, std::move(events));
}

// Ends the request if its client leaves too much unread.
void RelayShard::Deliver(LiveRequest& request, std::vector<AnswerEvent> events) {
  for (AnswerEvent& event : events) {
    if (request.stream->Push(std::move(event))) continue;
    metrics_.Write()->slow_consumers.At(request.request.model->name).Add(1);
    CancelOnWorker(request, CancelReason::CANCEL_REASON_CLIENT_GONE);
    End(request,
        WithReason(ResourceExhausted("the client left ", AnswerStream::kUnreadBytesMax,
                                     " bytes of the answer unread"),
                   "SLOW_CONSUMER"),
        v1::FINISH_REASON_UNSPECIFIED);
    return;
  }
}

void RelayShard::FinishWell(LiveRequest& request, v1::FinishReason reason) {
  std::vector<AnswerEvent> events;
  request.text.Finish(events);
  // The last message has ids, but no logprobs.
  if (request.request.submit.logprobs() > 0) request.text.FlushIds(events);
  AnswerEvent last;
  v1::Finished& finished = *last.mutable_finished();
  if (request.text.called_tools() && reason == v1::FINISH_REASON_STOP) {
    reason = v1::FINISH_REASON_TOOL_CALLS;
  }
  finished.set_reason(reason);
  *finished.mutable_usage() = UsageOf(request);
  finished.mutable_token_ids()->Assign(request.text.trailing_ids().begin(),
                                       request.text.trailing_ids().end());
  events.push_back(std::move(last));
  const std::string request_id = request.id();
  Deliver(request, std::move(events));
  if (Find(request_id) != nullptr) End(request, absl::OkStatus(), reason);
}

void RelayShard::FinishByWorker(LiveRequest& request, Finish finish) {
  const auto end = [&](const Status& status) {
    End(request, status, v1::FINISH_REASON_UNSPECIFIED);
  };
  switch (finish) {
    case Finish::FINISH_STOP:
      return FinishWell(request, v1::FINISH_REASON_STOP);
    case Finish::FINISH_LENGTH:
      return FinishWell(request, v1::FINISH_REASON_LENGTH);
    case Finish::FINISH_DEADLINE:
      return end(absl::DeadlineExceededError("the deadline passed while tokens were generated"));
    case Finish::FINISH_CANCELLED:
      return end(absl::CancelledError(StrCat("worker ", request.worker_name, " cancelled it")));
    default:
      return end(
          Internal("worker ", request.worker_name, " could not go on: its logits were not finite"));
  }
}

void RelayShard::OnRegister(std::unique_ptr<LiveRequest> request) {
  LiveRequest& it = *request;
  next_deadline_ns_ = std::min(next_deadline_ns_, it.deadline_ns);
  live_[it.id()] = std::move(request);
  if (closed_.has_value()) {
    ports_.RemoveFromQueue(*it.request.model, it.id());
    End(it, *closed_, v1::FINISH_REASON_UNSPECIFIED);
  } else if (it.stream->client_gone()) {
    OnClientGone(it.id());  // It left before there was somebody to tell.
  } else {
    QueueAgain(it);
  }
}

// Begins the next attempt, with everything committed so far.
void RelayShard::QueueAgain(LiveRequest& request) {
  request.state = LiveRequest::State::kQueued;
  worker::v1::Submit& submit = request.request.submit;
  submit.set_epoch(request.log.BeginEpoch());
  submit.mutable_committed_ids()->Assign(request.log.ids().begin(), request.log.ids().end());
  ports_.Requeue(request.request);
}

// Of a request that lives, or that ended while it was being sent.
void RelayShard::OpenAccount(const RequestDispatched& dispatched) {
  const LiveRequest* request = Find(dispatched.request_id);
  const EndedRequest* ended = accounts_.FindEnded(dispatched.request_id);
  if (request == nullptr && ended == nullptr) return;
  v1::UsageRecord record;
  record.set_request_id(dispatched.request_id);
  record.set_epoch(dispatched.epoch);
  record.set_worker_epoch(dispatched.worker_epoch);
  record.set_tenant(request != nullptr ? request->request.tenant : ended->tenant);
  record.set_model(request != nullptr ? request->request.model->name : ended->model);
  record.set_worker(dispatched.worker_name);
  record.set_device_class(dispatched.device_class);
  record.set_numerics_id(dispatched.numerics_id);
  record.set_prompt_tokens(request != nullptr ? request->request.submit.prompt_ids_size()
                                              : ended->prompt_tokens);
  record.set_start_unix_ns(clock_.UnixNs());
  accounts_.Open(dispatched.worker, dispatched.session, std::move(record));
}

void RelayShard::OnDispatched(const RequestDispatched& dispatched) {
  OpenAccount(dispatched);
  LiveRequest* request = Find(dispatched.request_id);
  if (request == nullptr || request->log.epoch() != dispatched.epoch) {
    RouterMessage message;  // It ended while it was being sent.
    message.mutable_cancel()->set_request_id(dispatched.request_id);
    message.mutable_cancel()->set_epoch(dispatched.epoch);
    message.mutable_cancel()->set_reason(CancelReason::CANCEL_REASON_CLIENT_GONE);
    ports_.SendToWorker(dispatched.worker, dispatched.session, std::move(message));
    return;
  }
  request->state = LiveRequest::State::kRunning;
  request->worker = dispatched.worker;
  request->session = dispatched.session;
  request->worker_name = dispatched.worker_name;
  request->numerics_id = dispatched.numerics_id;
  const std::string& model = request->request.model->name;
  auto metrics = metrics_.Write();
  metrics->requests_running.At(model).Add(1);
  if (request->dispatched_ns == 0) {
    request->dispatched_ns = clock_.NowNs();
    metrics->queue_wait.At(model).Observe(Ms(request->dispatched_ns - request->arrival_ns) / 1000);
  }
}

// Accounts are complete now: what the worker charged, and how the answer ended.
void RelayShard::OnSettled(SettledArrived& arrived) {
  ports_.FrameDone(arrived.worker, arrived.session);
  for (v1::UsageRecord& record : arrived.records) accounts_.Settle(record);
  ports_.Settle(std::move(arrived.records), arrived.worker, arrived.session);
}

void RelayShard::OnRefused(const SubmitWasRefused& arrived) {
  ports_.FrameDone(arrived.worker, arrived.session);
  const worker::v1::SubmitRefused& refused = arrived.refused;
  accounts_.Drop(refused.request_id(), refused.epoch());
  LiveRequest* request = Find(refused.request_id());
  if (request == nullptr || request->log.epoch() != refused.epoch() ||
      request->state != LiveRequest::State::kRunning) {
    return;
  }
  const auto code = static_cast<absl::StatusCode>(refused.code());
  Log(kWarning, "submit refused",
      {{"request_id", request->id()},
       {"worker", request->worker_name},
       {"code", CodeName(code)},
       {"message", refused.message()}});
  ports_.ReturnCredit(arrived.worker, arrived.session, request->request.prefill_tokens());
  metrics_.Write()->requests_running.At(request->request.model->name).Add(-1);
  request->state = LiveRequest::State::kQueued;
  if (code == absl::StatusCode::kResourceExhausted || code == absl::StatusCode::kUnavailable) {
    QueueAgain(*request);
    return;
  }
  const Status status = code == absl::StatusCode::kOk
                            ? Internal("worker ", request->worker_name, " refused without a code")
                            : Status(code, refused.message());
  End(*request, status, v1::FINISH_REASON_UNSPECIFIED);
}

void RelayShard::OnClientGone(const std::string& request_id) {
  LiveRequest* request = Find(request_id);
  // gRPC ends a call at its deadline: then the client is gone because time is.
  if (request == nullptr || request->deadline_ns <= clock_.NowNs()) return;
  CancelOnWorker(*request, CancelReason::CANCEL_REASON_CLIENT_GONE);
  End(*request, absl::CancelledError("the client went away"), v1::FINISH_REASON_UNSPECIFIED);
}

// Its requests go on elsewhere from their logs while they have attempts left, and end otherwise.
void RelayShard::OnWorkerLost(const WorkerLost& lost) {
  std::vector<LiveRequest*> hit;
  for (const auto& [request_id, request] : live_) {
    if (request->state == LiveRequest::State::kRunning && request->worker == lost.worker &&
        request->session == lost.session) {
      hit.push_back(request.get());
    }
  }
  for (LiveRequest* request : hit) {
    if (request->log.epoch() < options_.attempts_max) {
      metrics_.Write()->requests_running.At(request->request.model->name).Add(-1);
      QueueAgain(*request);
      continue;
    }
    const Status status = WithReason(Unavailable(lost.reason), "WORKER_LOST");
    // Nothing was answered yet: the same request may be sent again.
    End(*request,
        request->accepted_sent ? status : WithRetryAfter(status, options_.lost_retry_after_ms),
        v1::FINISH_REASON_UNSPECIFIED);
  }
  // If the worker lives it will settle them itself, and its records go before these.
  std::vector<v1::UsageRecord> records =
      accounts_.TakeLost(lost.worker, lost.session, clock_.UnixNs());
  if (!records.empty()) ports_.Settle(std::move(records), /*worker=*/-1, /*session=*/0);
}

void RelayShard::OnEndAll(const EndAll& end) {
  closed_ = end.status;
  while (!live_.empty()) {
    LiveRequest& request = *live_.begin()->second;
    CancelOnWorker(request, CancelReason::CANCEL_REASON_DEADLINE);
    End(request, end.status, v1::FINISH_REASON_UNSPECIFIED);
  }
}

void RelayShard::EndOverdue() {
  const int64_t now_ns = clock_.NowNs();
  if (now_ns < next_deadline_ns_) return;
  std::vector<LiveRequest*> overdue;
  next_deadline_ns_ = INT64_MAX;
  for (const auto& [request_id, request] : live_) {
    if (request->deadline_ns <= now_ns) {
      overdue.push_back(request.get());
    } else {
      next_deadline_ns_ = std::min(next_deadline_ns_, request->deadline_ns);
    }
  }
  for (LiveRequest* request : overdue) {
    CancelOnWorker(*request, CancelReason::CANCEL_REASON_DEADLINE);
    End(*request,
        absl::DeadlineExceededError(
            StrCat("the deadline passed after ", request->log.size(), " new tokens")),
        v1::FINISH_REASON_UNSPECIFIED);
  }
}

LiveRequest* RelayShard::Find(const std::string& request_id) {
  const auto found = live_.find(request_id);
  return found == live_.end() ? nullptr : found->second.get();
}

// Tells whoever has the request, the worker or the queue, that it is not wanted any more.
void RelayShard::CancelOnWorker(const LiveRequest& request, CancelReason reason) {
  if (request.state == LiveRequest::State::kQueued) {
    ports_.RemoveFromQueue(*request.request.model, request.id());
    return;
  }
  RouterMessage message;
  message.mutable_cancel()->set_request_id(request.id());
  message.mutable_cancel()->set_epoch(request.log.epoch());
  message.mutable_cancel()->set_reason(reason);
  ports_.SendToWorker(request.worker, request.session, std::move(message));
}

// The record, the client's last message, and the end of the request's life.
void RelayShard::End(LiveRequest& request, const Status& status, v1::FinishReason reason) {
  const std::string& model = request.request.model->name;
  if (request.state == LiveRequest::State::kRunning) {
    metrics_.Write()->requests_running.At(model).Add(-1);
  }
  const bool dispatched = request.dispatched_ns != 0;
  usage_meter_.Record({.request_id = request.id(),
                       .model = model,
                       .tenant = request.request.tenant,
                       .worker = request.worker_name,
                       .numerics_id = request.numerics_id,
                       .attempts = dispatched ? request.log.epoch() : 0,
                       .status = status,
                       .finish_reason = reason,
                       .usage = UsageOf(request)});
  request.stream->End(status);
  accounts_.End(request.id(), {.model = model,
                               .tenant = request.request.tenant,
                               .prompt_tokens = request.request.submit.prompt_ids_size(),
                               .epoch = request.log.epoch(),
                               .outcome = CodeName(status.code())});
  live_.erase(request.id());
  ports_.RequestEnded();
}

v1::Usage RelayShard::UsageOf(const LiveRequest& request) const {
  const int64_t now_ns = clock_.NowNs();
  v1::Usage usage;
  usage.set_prompt_tokens(request.request.submit.prompt_ids_size());
  usage.set_completion_tokens(request.log.size());
  usage.set_thinking_tokens(request.text.thinking_tokens());
  usage.set_cost_nano_usd(request.cost_nano_usd);
  usage.set_cost_usd(static_cast<double>(request.cost_nano_usd) / 1e9);
  usage.set_prefill_device_ns(request.prefill_device_ns);
  usage.set_decode_device_ns(request.decode_device_ns);
  const int64_t started_ns = request.dispatched_ns != 0 ? request.dispatched_ns : now_ns;
  usage.set_queue_ms(Ms(started_ns - request.arrival_ns));
  if (request.first_token_ns != 0)
    usage.set_ttft_ms(Ms(request.first_token_ns - request.arrival_ns));
  if (request.log.size() > 1) {
    usage.set_tpot_ms(Ms(request.last_token_ns - request.first_token_ns) /
                      (request.log.size() - 1));
  }
  usage.set_total_ms(Ms(now_ns - request.arrival_ns));
  return usage;
}

}  // namespace facet::router
