#include "router/request_path.h"

#include <algorithm>
#include <exception>
#include <functional>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/overloaded.h"
#include "proto/grpc_status.h"

namespace facet::router {
namespace {

constexpr size_t kInboxMax = 1 << 18;
// Reports repeat themselves, so half of the inbox is for what must not be lost.
constexpr size_t kReportsMax = kInboxMax / 2;
constexpr int64_t kRetryAfterMs = 1000;

// The prompt as text; empty if the client sent token ids.
StatusOr<std::string> Render(const ClientRequest& request, const ServedModel& model) {
  if (const auto* conversation = std::get_if<Conversation>(&request.prompt)) {
    return RenderChat(*conversation, model.template_variant);
  }
  const auto* text = std::get_if<TextPrompt>(&request.prompt);
  return text != nullptr ? text->text : "";
}

StatusOr<std::vector<int32_t>> Tokenize(const ClientRequest& request,
                                        const ServedModel& model,
                                        const std::string& prompt) {
  if (const auto* tokens = std::get_if<TokenPrompt>(&request.prompt)) return tokens->ids;
  FACET_ASSIGN_OR_RETURN(std::vector<int32_t> ids, model.tokenizer->Encode(prompt));
  // A rendered conversation brings its own <bos>.
  const auto bos = model.tokenizer->bos_id();
  const bool is_text = std::holds_alternative<TextPrompt>(request.prompt);
  if (is_text && bos.has_value() && (ids.empty() || ids.front() != *bos)) {
    ids.insert(ids.begin(), *bos);
  }
  return ids;
}

// 0 if no worker is ready.
int32_t LongestReadyContext(const std::vector<RouteCandidate>& candidates) {
  int32_t longest = 0;
  for (const RouteCandidate& candidate : candidates) {
    if (candidate.ready) longest = std::max(longest, candidate.context_tokens_max);
  }
  return longest;
}

worker::v1::Submit MakeSubmit(const std::string& request_id,
                              const std::string& tenant,
                              const Ticket& ticket,
                              const std::vector<int32_t>& prompt_ids,
                              int32_t new_tokens_max) {
  worker::v1::Submit submit;
  submit.set_request_id(request_id);
  submit.mutable_prompt_ids()->Assign(prompt_ids.begin(), prompt_ids.end());
  *submit.mutable_sampling() = ticket.sampling;
  submit.mutable_stop_token_ids()->Assign(ticket.stop_token_ids.begin(),
                                          ticket.stop_token_ids.end());
  submit.set_new_tokens_max(new_tokens_max);
  submit.set_new_tokens_min(ticket.new_tokens_min);
  submit.set_logprobs(ticket.logprobs);
  submit.set_tenant(tenant);
  return submit;
}

}  // namespace

RequestPath::RequestPath(RequestPathOptions options,
                         const std::vector<ServedModel>& models,
                         Fleet fleet,
                         const Clock& clock,
                         MetricsPage<RouterMetrics>& metrics,
                         UsageMeter& usage_meter,
                         RequestPathPorts& ports)
    : options_(options),
      models_(models),
      clock_(clock),
      metrics_(metrics),
      usage_meter_(usage_meter),
      ports_(ports),
      inbox_(kInboxMax),
      fleet_(std::move(fleet)) {
  for (int i = 0; i < std::max(options_.prepare_threads, 1); ++i) {
    prepare_queues_.push_back(
        std::make_unique<BoundedQueue<Accepted>>(static_cast<size_t>(options_.queue_requests_max)));
  }
  snapshot_ = fleet_.Snapshot();
}

RequestPath::~RequestPath() { Stop(); }

// Stages 1 to 3, a straight line. An error ends the request here, because no shard has it yet.
void RequestPath::Prepare(Accepted accepted) {
  StatusOr<std::unique_ptr<LiveRequest>> live = MakeLive(accepted);
  --num_preparing_;
  if (live.ok()) {
    ports_.ShardOf(accepted.request_id).Post(std::move(*live));
    return;
  }
  const bool served = std::any_of(
      models_.begin(), models_.end(),
      [&accepted](const ServedModel& model) { return model.name == accepted.request.model; });
  usage_meter_.Record({.request_id = accepted.request_id,
                       .model = served ? accepted.request.model : "unknown",
                       .tenant = accepted.request.tenant,
                       .worker = "",
                       .numerics_id = "",
                       .attempts = 0,
                       .status = live.status(),
                       .finish_reason = v1::FINISH_REASON_UNSPECIFIED,
                       .usage = {}});
  accepted.stream->End(live.status());
  OnRequestEnded();
}

StatusOr<std::unique_ptr<LiveRequest>> RequestPath::MakeLive(const Accepted& accepted) {
  const ClientRequest& request = accepted.request;
  try {
    FACET_ASSIGN_OR_RETURN(const Ticket ticket,  // 1 admit
                           Admit(request, {.models = models_,
                                           .now_ns = clock_.NowNs(),
                                           .deadline_ms_default = options_.deadline_ms_default,
                                           .fresh_seed = Random()}));
    const ServedModel& model = *ticket.model;
    FACET_ASSIGN_OR_RETURN(const std::string prompt, Render(request, model));  // 2 render
    FACET_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,                     // 3 tokenize
                           Tokenize(request, model, prompt));
    const int32_t context_ready = snapshot()->ContextTokensMax(model.name);
    const int32_t context = context_ready > 0 ? context_ready : model.context_tokens_max;
    FACET_ASSIGN_OR_RETURN(const int32_t new_tokens_max, FitContext(ticket, ids, context));

    QueuedRequest queued;
    queued.model = &model;
    queued.tenant = request.tenant;
    queued.submit = MakeSubmit(accepted.request_id, request.tenant, ticket, ids, new_tokens_max);
    const int64_t left_ns = ticket.deadline_ns - clock_.NowNs();
    queued.submit.set_deadline_unix_ms((clock_.UnixNs() + left_ns) / 1'000'000);
    queued.new_tokens_asked = ticket.new_tokens_max > 0;
    queued.queue_deadline_ns = request.arrival_ns + options_.queue_wait_ms_max * 1'000'000;
    const auto kind = std::holds_alternative<Conversation>(request.prompt)
                          ? AnswerText::Kind::kChat
                          : AnswerText::Kind::kContinuation;
    AnswerText text(model, ids,
                    {.kind = kind, .call_id_prefix = accepted.request_id, .stop = ticket.stop});
    auto live = std::make_unique<LiveRequest>(std::move(queued), std::move(text), accepted.stream);
    live->client_request_id = request.client_request_id;
    live->arrival_ns = request.arrival_ns;
    live->deadline_ns = ticket.deadline_ns;
    return live;
  } catch (const std::exception& error) {
    Log(kError, "prepare threw", {{"request_id", accepted.request_id}, {"what", error.what()}});
    return Internal("the request could not be prepared");
  }
}

// Stage 4: gives workers what they have credit for, in the order of turns. The head of a line is
// never overtaken by a smaller request of its model, so a long prompt cannot starve.
void RequestPath::Dispatch() {
  for (auto& [model, queue] : queues_) {
    while (!queue.empty()) {
      const std::vector<RouteCandidate> candidates = fleet_.Candidates(model->name);
      if (!FitFront(queue, LongestReadyContext(candidates))) continue;
      const QueuedRequest& next = queue.Front();
      const auto worker = PickWorker(
          candidates,
          {.prompt_tokens = next.prefill_tokens(),
           .context_tokens = next.submit.prompt_ids_size() + next.submit.new_tokens_max(),
           .hash = std::hash<std::string>()(next.submit.request_id())});
      if (!worker.has_value()) break;
      Submit(queue.PopFront(), *worker);
    }
  }
}

// A request that was prepared while no worker was ready may ask for more than any of them holds. It
// gets what fits if its client left that open, and ends if not: then false, and Front is another.
bool RequestPath::FitFront(FairQueue<QueuedRequest>& queue, int32_t context_tokens_max) {
  worker::v1::Submit& submit = queue.Front().submit;
  const int32_t room = context_tokens_max - submit.prompt_ids_size();
  if (context_tokens_max == 0 || submit.new_tokens_max() <= room) return true;
  if (!queue.Front().new_tokens_asked && room > submit.committed_ids_size()) {
    submit.set_new_tokens_max(room);
    return true;
  }
  const QueuedRequest request = queue.PopFront();
  const std::string& request_id = request.submit.request_id();
  const Status status =
      WithReason(InvalidArgument("prompt and new tokens are ", request.submit.prompt_ids_size(),
                                 " and ", request.submit.new_tokens_max(), "; together at most ",
                                 context_tokens_max, " fit"),
                 "CONTEXT_LENGTH_EXCEEDED");
  ports_.ShardOf(request_id).Post(EndRequest{.request_id = request_id, .status = status});
  return false;
}

void RequestPath::Submit(QueuedRequest request, int worker) {
  const uint64_t session = fleet_.session(worker);
  ports_.ShardOf(request.submit.request_id())
      .Post(RequestDispatched{.request_id = request.submit.request_id(),
                              .epoch = request.submit.epoch(),
                              .worker = worker,
                              .session = session,
                              .worker_name = fleet_.config(worker).name(),
                              .numerics_id = fleet_.numerics_id(worker),
                              .worker_epoch = fleet_.described(worker).worker_epoch(),
                              .device_class = fleet_.described(worker).device_class()});
  fleet_.OnSubmitted(worker, request.prefill_tokens());
  worker::v1::RouterMessage message;
  *message.mutable_submit() = std::move(request.submit);
  ports_.Link(worker).Send(session, std::move(message));
}

std::string RequestPath::Accept(ClientRequest request,
                                const std::shared_ptr<AnswerStream>& stream) {
  const uint64_t number = Random();
  std::string request_id;
  constexpr char kHex[] = "0123456789abcdef";
  for (int shift = 60; shift >= 0; shift -= 4) request_id += kHex[(number >> shift) & 15];
  Status status = CheckRoom();
  if (status.ok()) {
    ++num_preparing_;
    Accepted accepted{.request_id = request_id, .request = std::move(request), .stream = stream};
    if (prepare_queues_[number % prepare_queues_.size()]->TryPush(std::move(accepted))) {
      return request_id;
    }
    --num_preparing_;
    OnRequestEnded();
    status = Unavailable("the router ends");
  }
  metrics_.Write()->requests.At("unknown", CodeName(status.code())).Add(1);
  stream->End(status);
  return request_id;
}

// Books one more live request, or says why not.
Status RequestPath::CheckRoom() {
  const auto full = [](std::string_view what, int64_t count) {
    return WithRetryAfter(
        WithReason(ResourceExhausted(what, " is full: ", count, " requests are there"),
                   "QUEUE_FULL"),
        kRetryAfterMs);
  };
  if (draining_) {
    return WithRetryAfter(WithReason(Unavailable("the router drains before it ends"), "DRAINING"),
                          kRetryAfterMs);
  }
  if (num_queued() >= options_.queue_requests_max) return full("the queue", num_queued());
  absl::MutexLock lock(&mutex_);
  if (num_live_ >= options_.live_requests_max) return full("the router", num_live_);
  ++num_live_;
  return absl::OkStatus();
}

void RequestPath::OnRequestEnded() {
  absl::MutexLock lock(&mutex_);
  --num_live_;
}

bool RequestPath::AwaitIdle(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  const auto idle = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return num_live_ == 0; };
  return mutex_.AwaitWithTimeout(absl::Condition(&idle), timeout);
}

int32_t RequestPath::num_live() const {
  absl::MutexLock lock(&mutex_);
  return num_live_;
}

std::shared_ptr<const FleetSnapshot> RequestPath::snapshot() const {
  absl::MutexLock lock(&mutex_);
  return snapshot_;
}

// splitmix64 of a count: any thread, no lock, the same numbers for the same seed.
uint64_t RequestPath::Random() {
  uint64_t x = options_.random_seed + ++random_count_ * 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

void RequestPath::Start() {
  for (size_t i = 0; i < prepare_queues_.size(); ++i) {
    threads_.emplace_back([this, i] { PrepareLoop(static_cast<int>(i)); });
  }
  threads_.emplace_back([this] { DispatchLoop(); });
}

void RequestPath::Stop() {
  for (const auto& queue : prepare_queues_) queue->Close();
  inbox_.Close();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void RequestPath::PrepareLoop(int thread) {
  BoundedQueue<Accepted>& queue = *prepare_queues_[static_cast<size_t>(thread)];
  while (true) {
    std::vector<Accepted> batch = queue.WaitAndDrain();
    if (batch.empty() && queue.closed()) return;
    for (Accepted& accepted : batch) Prepare(std::move(accepted));
  }
}

void RequestPath::DispatchLoop() {
  dispatch_thread_.Rebind();
  while (!inbox_.closed()) Turn(inbox_.WaitAndDrain(TimeToNextEvent()));
}

absl::Duration RequestPath::TimeToNextEvent() const {
  const int64_t next_ns = std::min(fleet_.NextTickNs(), next_queue_deadline_ns_);
  if (next_ns == INT64_MAX) return absl::InfiniteDuration();
  return absl::Nanoseconds(std::max<int64_t>(next_ns - clock_.NowNs(), 0));
}

void RequestPath::Turn(std::vector<Event> events) {
  dispatch_thread_.Check();
  for (Event& event : events) Apply(event);
  Act(fleet_.OnTick(clock_.NowNs()));
  EndOverdueInQueue();
  Dispatch();
  Publish();
}

void RequestPath::Apply(Event& event) {
  const int64_t now_ns = clock_.NowNs();
  std::visit(
      Overloaded{
          [this](QueuedRequest& it) {
            next_queue_deadline_ns_ = std::min(next_queue_deadline_ns_, it.queue_deadline_ns);
            FairQueue<QueuedRequest>& queue = queues_[it.model];
            const std::string tenant = it.tenant;
            // A later attempt had its turn already.
            if (it.submit.epoch() > 1) {
              queue.PushFront(tenant, std::move(it));
            } else {
              queue.PushBack(tenant, std::move(it));
            }
          },
          [this](const Remove& it) {
            queues_[it.model].TakeIf([&it](const QueuedRequest& request) {
              return request.submit.request_id() == it.request_id;
            });
          },
          [this](const ReturnCredit& it) {
            fleet_.OnRefused(it.worker, it.session, it.prefill_tokens);
          },
          [&](const Described& it) { Act(fleet_.OnDescribed(it.worker, it.response, now_ns)); },
          [&](const FrameReport& it) {
            fleet_.OnReport(it.worker, it.session, it.credits, it.load, it.step, now_ns);
          },
          [&](const HeartbeatReport& it) {
            Act(fleet_.OnHeartbeat(it.worker, it.session, it.heartbeat, now_ns));
          },
          [&](const SessionEnded& it) {
            Act(fleet_.OnSessionEnded(it.worker, it.session, it.status, now_ns));
          }},
      event);
}

void RequestPath::Act(const std::vector<Fleet::Action>& actions) {
  for (const Fleet::Action& action : actions) {
    WorkerLink& link = ports_.Link(action.worker);
    const WorkerConfig& config = fleet_.config(action.worker);
    switch (action.kind) {
      case Fleet::Action::Kind::kDescribe:
        link.Describe();
        break;
      case Fleet::Action::Kind::kOpenSession:
        Log(kInfo, "worker session opens",
            {{"worker", config.name()}, {"address", config.grpc_address}});
        link.OpenSession(action.session);
        break;
      case Fleet::Action::Kind::kRenewLease: {
        worker::v1::RouterMessage message;
        message.mutable_lease()->set_lease_ms(fleet_.lease_ms());
        link.Send(action.session, std::move(message));
        break;
      }
      case Fleet::Action::Kind::kCloseSession:
        Log(kWarning, "worker lost", {{"worker", config.name()}, {"reason", action.reason}});
        metrics_.Write()
            ->worker_lost.At(config.pool, std::to_string(config.index), action.cause)
            .Add(1);
        link.CloseSession(action.session);
        ports_.PostToAllShards(
            {.worker = action.worker, .session = action.session, .reason = action.reason});
        break;
    }
  }
}

// Requests that waited too long end; whether workers are missing or busy makes the code.
void RequestPath::EndOverdueInQueue() {
  const int64_t now_ns = clock_.NowNs();
  if (now_ns < next_queue_deadline_ns_) return;
  next_queue_deadline_ns_ = INT64_MAX;
  for (auto& [model, queue] : queues_) {
    std::vector<QueuedRequest> overdue = queue.TakeIf([&](const QueuedRequest& request) {
      if (request.queue_deadline_ns <= now_ns) return true;
      next_queue_deadline_ns_ = std::min(next_queue_deadline_ns_, request.queue_deadline_ns);
      return false;
    });
    if (overdue.empty()) continue;
    const bool any_ready = fleet_.Snapshot()->AnyReady(model->name);
    const Status status =
        any_ready
            ? WithReason(ResourceExhausted("no worker of model ", model->name, " had room for ",
                                           options_.queue_wait_ms_max, " ms"),
                         "CAPACITY")
            : WithReason(Unavailable("no worker of model ", model->name, " was ready for ",
                                     options_.queue_wait_ms_max, " ms"),
                         "NO_WORKER");
    for (const QueuedRequest& request : overdue) {
      ports_.ShardOf(request.submit.request_id())
          .Post(EndRequest{.request_id = request.submit.request_id(),
                           .status = WithRetryAfter(status, kRetryAfterMs)});
    }
  }
}

void RequestPath::Publish() {
  std::shared_ptr<const FleetSnapshot> fresh = fleet_.Snapshot();
  int32_t num_waiting = 0;
  {
    auto metrics = metrics_.Write();
    for (const auto& [model, queue] : queues_) {
      num_waiting += static_cast<int32_t>(queue.size());
      metrics->queue_requests.At(model->name).Set(static_cast<double>(queue.size()));
    }
    for (size_t i = 0; i < fleet_.size(); ++i) {
      const WorkerConfig& config = fleet_.config(static_cast<int>(i));
      metrics->worker_ready.At(config.pool, std::to_string(config.index))
          .Set(fresh->workers[i].candidate.ready ? 1 : 0);
    }
  }
  num_waiting_ = num_waiting;
  {
    absl::MutexLock lock(&mutex_);
    snapshot_ = fresh;
  }
  ports_.OnSnapshot(*fresh);
}

void RequestPath::Post(Event event) {
  const bool posted = inbox_.TryPush(std::move(event));
  FACET_CHECK(posted || inbox_.closed()) << "the dispatch thread's inbox is full";
}

void RequestPath::PostReport(Event event) {
  if (inbox_.size() < kReportsMax) Post(std::move(event));
}

void RequestPath::PostRequeue(QueuedRequest request) { Post(std::move(request)); }

void RequestPath::PostRemove(const ServedModel& model, const std::string& request_id) {
  Post(Remove{.model = &model, .request_id = request_id});
}

void RequestPath::PostReturnCredit(int worker, uint64_t session, int64_t prefill_tokens) {
  Post(ReturnCredit{.worker = worker, .session = session, .prefill_tokens = prefill_tokens});
}

void RequestPath::PostDescribed(int worker, StatusOr<worker::v1::DescribeResponse> described) {
  Post(Described{.worker = worker, .response = std::move(described)});
}

void RequestPath::PostFrameReport(int worker,
                                  uint64_t session,
                                  const worker::v1::StepFrame& frame) {
  PostReport(FrameReport{.worker = worker,
                         .session = session,
                         .step = frame.step(),
                         .credits = frame.credits(),
                         .load = frame.load()});
}

void RequestPath::PostHeartbeat(int worker, uint64_t session, worker::v1::Heartbeat heartbeat) {
  PostReport(
      HeartbeatReport{.worker = worker, .session = session, .heartbeat = std::move(heartbeat)});
}

void RequestPath::PostSessionEnded(int worker, uint64_t session, const Status& status) {
  Post(SessionEnded{.worker = worker, .session = session, .status = status});
}

}  // namespace facet::router
