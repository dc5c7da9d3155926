#include "router/routing/fleet.h"

#include <algorithm>
#include <limits>

#include "proto/grpc_status.h"

namespace facet::router {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;
constexpr int64_t kRateWindowNs = 10'000 * kNsPerMs;
constexpr int64_t kSamplePeriodNs = 500 * kNsPerMs;

}  // namespace

bool FleetSnapshot::AnyReady(const std::string& model) const {
  return std::any_of(workers.begin(), workers.end(), [&model](const WorkerView& worker) {
    return worker.candidate.ready && worker.status.model() == model;
  });
}

int32_t FleetSnapshot::ContextTokensMax(const std::string& model) const {
  int32_t least = 0;
  for (const WorkerView& worker : workers) {
    if (!worker.candidate.ready || worker.status.model() != model) continue;
    const int32_t tokens = worker.candidate.context_tokens_max;
    least = least == 0 ? tokens : std::min(least, tokens);
  }
  return least;
}

Fleet::Fleet(std::vector<WorkerConfig> workers, FleetOptions options) : options_(options) {
  for (WorkerConfig& config : workers) workers_.emplace_back().config = std::move(config);
}

std::vector<Fleet::Action> Fleet::OnTick(int64_t now_ns) {
  std::vector<Action> actions;
  for (int i = 0; i < static_cast<int>(workers_.size()); ++i) {
    Worker& worker = workers_[i];
    if (worker.session == 0) {
      if (worker.describing || now_ns < worker.next_describe_ns) continue;
      worker.describing = true;
      actions.push_back({.kind = Action::Kind::kDescribe, .worker = i});
      continue;
    }
    const bool heard_once =
        worker.state != v1::WORKER_STATE_LOADING && worker.state != v1::WORKER_STATE_CONNECTING;
    const int64_t silence_ms_max = heard_once ? options_.silence_ms_max : options_.connect_ms_max;
    if (now_ns - worker.last_heard_ns > silence_ms_max * kNsPerMs) {
      actions.push_back(Lose(i, v1::WORKER_STATE_DEAD,
                             StrCat("no heartbeat for ", silence_ms_max, " ms"), "heartbeat",
                             now_ns));
      continue;
    }
    if (now_ns >= worker.next_lease_ns) {
      worker.next_lease_ns = now_ns + options_.lease_period_ms * kNsPerMs;
      actions.push_back(
          {.kind = Action::Kind::kRenewLease, .worker = i, .session = worker.session});
    }
  }
  return actions;
}

int64_t Fleet::NextTickNs() const {
  int64_t next = std::numeric_limits<int64_t>::max();
  for (const Worker& worker : workers_) {
    if (worker.session != 0) {
      next = std::min(next, worker.next_lease_ns);
      next = std::min(next, worker.last_heard_ns + (options_.silence_ms_max + 1) * kNsPerMs);
    } else if (!worker.describing) {
      next = std::min(next, worker.next_describe_ns);
    }
  }
  return next;
}

std::vector<Fleet::Action> Fleet::OnDescribed(
    int worker, const StatusOr<worker::v1::DescribeResponse>& described, int64_t now_ns) {
  Worker& it = workers_[worker];
  it.describing = false;
  if (!described.ok()) {
    OnNotDescribed(it, described.status());
    Retry(it, now_ns);
    return {};
  }
  it.described = *described;
  it.was_described = true;
  if (std::string mismatch = Mismatch(worker); !mismatch.empty()) {
    it.state = v1::WORKER_STATE_MISMATCH;
    it.reason = std::move(mismatch);
    it.backoff_ms = options_.backoff_ms_max;
    Retry(it, now_ns);
    return {};
  }
  std::vector<Action> actions = EndOlderEpochs(worker, now_ns);
  it.session = ++it.sessions_opened;
  it.state = v1::WORKER_STATE_CONNECTING;
  it.reason = "waiting for the first heartbeat";
  it.last_heard_ns = now_ns;
  it.next_lease_ns = now_ns;
  it.credits.Clear();
  it.load.Clear();
  it.experts.Clear();
  it.samples.clear();
  it.sequences_sent = 0;
  it.prefill_tokens_sent = 0;
  it.sequences_reported = 0;
  it.prefill_tokens_reported = 0;
  actions.push_back({.kind = Action::Kind::kOpenSession, .worker = worker, .session = it.session});
  return actions;
}

void Fleet::OnNotDescribed(Worker& worker, const Status& status) {
  const std::string reason = ReasonOf(status);
  if (reason == "LOADING" || reason == "GROUP_FORMING") {
    worker.state = v1::WORKER_STATE_LOADING;
  } else if (reason == "SPARE") {
    worker.state = v1::WORKER_STATE_SPARE;
  } else if (worker.sessions_opened == 0) {
    worker.state = v1::WORKER_STATE_CONNECTING;
  }
  // A worker that was lost keeps saying why.
  if (worker.state != v1::WORKER_STATE_DEAD) worker.reason = MessageOf(status);
}

bool Fleet::SameGroup(const Worker& a, const Worker& b) {
  return a.session != 0 && b.session != 0 && !a.described.group().empty() &&
         a.described.group() == b.described.group();
}

std::vector<Fleet::Action> Fleet::EndOlderEpochs(int index, int64_t now_ns) {
  const worker::v1::DescribeResponse& newest = workers_[index].described;
  std::vector<Action> actions;
  for (int i = 0; i < static_cast<int>(workers_.size()); ++i) {
    const worker::v1::DescribeResponse& other = workers_[i].described;
    if (i == index || workers_[i].session == 0 || newest.group().empty()) continue;
    if (other.group() != newest.group() || other.group_epoch() >= newest.group_epoch()) continue;
    actions.push_back(Lose(i, v1::WORKER_STATE_DEAD,
                           StrCat("epoch ", other.group_epoch(), " of its group is over: epoch ",
                                  newest.group_epoch(), " has begun"),
                           "epoch", now_ns));
  }
  return actions;
}

Fleet::GroupHold Fleet::HoldOf(const Worker& worker) const {
  const int32_t num_ranks = worker.described.num_ranks();
  if (worker.described.group().empty()) return {};
  int32_t ready = 0;
  for (const Worker& other : workers_) {
    if (!SameGroup(worker, other)) continue;
    if (other.state == v1::WORKER_STATE_DRAINING) {
      return {v1::WORKER_STATE_DRAINING,
              StrCat("rank ", other.described.rank(), " of its group drains")};
    }
    const bool same_epoch = other.described.group_epoch() == worker.described.group_epoch();
    if (same_epoch && other.state == v1::WORKER_STATE_READY) ++ready;
  }
  if (ready == num_ranks) return {};
  return {v1::WORKER_STATE_LOADING, StrCat("of the ", num_ranks, " ranks of its group ", ready,
                                           " are ready in epoch ", worker.described.group_epoch())};
}

// Empty if the worker is what the config says and what the model's other workers are.
std::string Fleet::Mismatch(int index) const {
  const WorkerConfig& want = workers_[index].config;
  const worker::v1::DescribeResponse& got = workers_[index].described;
  const auto differs = [](std::string_view what, std::string_view found, std::string_view wanted) {
    return StrCat("its ", what, " is ", found, ", but the router has ", wanted);
  };
  if (got.model() != want.model) return differs("model", got.model(), want.model);
  if (got.pool() != want.pool || got.index() != want.index) {
    return differs("place", StrCat(got.pool(), "/", got.index()), want.name());
  }
  if (!want.config_digest.empty() && got.config_digest() != want.config_digest) {
    return differs("config.json digest", got.config_digest(), want.config_digest);
  }
  if (!want.tokenizer_digest.empty() && !got.tokenizer_digest().empty() &&
      got.tokenizer_digest() != want.tokenizer_digest) {
    return differs("tokenizer.json digest", got.tokenizer_digest(), want.tokenizer_digest);
  }
  for (size_t i = 0; i < workers_.size(); ++i) {
    const Worker& other = workers_[i];
    if (static_cast<int>(i) == index || other.session == 0) continue;
    if (other.config.model != want.model) continue;
    if (other.described.weights_digest() != got.weights_digest()) {
      return StrCat("its weights digest is ", got.weights_digest(), ", but worker ",
                    other.config.name(), " has ", other.described.weights_digest());
    }
  }
  return "";
}

void Fleet::Retry(Worker& worker, int64_t now_ns) {
  worker.backoff_ms =
      std::clamp(worker.backoff_ms * 2, options_.backoff_ms_min, options_.backoff_ms_max);
  worker.next_describe_ns = now_ns + worker.backoff_ms * kNsPerMs;
}

Fleet::Action Fleet::Lose(
    int index, v1::WorkerState state, const std::string& reason, std::string cause, int64_t now) {
  Worker& worker = workers_[index];
  const uint64_t session = worker.session;
  worker.session = 0;
  worker.state = state;
  worker.reason = reason;
  Retry(worker, now);
  return {.kind = Action::Kind::kCloseSession,
          .worker = index,
          .session = session,
          .reason = StrCat("worker ", worker.config.name(), " was lost: ", reason),
          .cause = std::move(cause)};
}

bool Fleet::IsOpen(const Worker& worker, uint64_t session) const {
  return session != 0 && worker.session == session;
}

void Fleet::OnReport(int worker,
                     uint64_t session,
                     const worker::v1::Credits& credits,
                     const worker::v1::Load& load,
                     uint64_t step,
                     int64_t now_ns) {
  if (IsOpen(workers_[worker], session)) TakeReport(workers_[worker], credits, load, step, now_ns);
}

void Fleet::TakeReport(Worker& worker,
                       const worker::v1::Credits& credits,
                       const worker::v1::Load& load,
                       uint64_t step,
                       int64_t now_ns) {
  worker.last_heard_ns = now_ns;
  worker.step = std::max(worker.step, step);
  // Totals never go back, so a frame and a heartbeat may overtake each other.
  worker.credits.set_sequences(std::max(worker.credits.sequences(), credits.sequences()));
  worker.credits.set_prefill_tokens(
      std::max(worker.credits.prefill_tokens(), credits.prefill_tokens()));
  worker.load = load;
  worker.sequences_reported =
      credits.has_sequences_received() ? credits.sequences_received() : worker.sequences_sent;
  worker.prefill_tokens_reported = credits.has_prefill_tokens_received()
                                       ? credits.prefill_tokens_received()
                                       : worker.prefill_tokens_sent;
  if (worker.samples.empty() || now_ns - worker.samples.back().time_ns >= kSamplePeriodNs) {
    worker.samples.push_back({now_ns, load});
    while (now_ns - worker.samples.front().time_ns > kRateWindowNs) worker.samples.pop_front();
  }
}

std::vector<Fleet::Action> Fleet::OnHeartbeat(int worker,
                                              uint64_t session,
                                              const worker::v1::Heartbeat& heartbeat,
                                              int64_t now_ns) {
  Worker& it = workers_[worker];
  if (!IsOpen(it, session)) return {};
  TakeReport(it, heartbeat.credits(), heartbeat.load(), heartbeat.step(), now_ns);
  it.backoff_ms = 0;
  if (heartbeat.has_experts()) it.experts = heartbeat.experts();
  if (heartbeat.has_price_usd_per_hour()) {
    it.described.set_price_usd_per_hour(heartbeat.price_usd_per_hour());
  }
  const int64_t step_ms_max =
      std::max(options_.step_ms_min, options_.step_factor * heartbeat.step_predicted_ms());
  if (heartbeat.step_elapsed_ms() > step_ms_max) {
    const std::string reason = StrCat("its step runs for ", heartbeat.step_elapsed_ms(),
                                      " ms; more than ", step_ms_max, " ms is not expected");
    if (it.state == v1::WORKER_STATE_READY || it.state == v1::WORKER_STATE_DRAINING) {
      return {Lose(worker, v1::WORKER_STATE_HUNG, reason, "hung", now_ns)};
    }
    it.state = v1::WORKER_STATE_HUNG;  // No request is there; the session shows when it goes on.
    it.reason = reason;
  } else if (!heartbeat.ready()) {
    it.state = v1::WORKER_STATE_LOADING;
    it.reason = "it has not finished its first step";
  } else {
    it.state = heartbeat.draining() ? v1::WORKER_STATE_DRAINING : v1::WORKER_STATE_READY;
    it.reason = heartbeat.draining() ? "it finishes what runs, then ends" : "";
  }
  return {};
}

std::vector<Fleet::Action> Fleet::OnSessionEnded(int worker,
                                                 uint64_t session,
                                                 const Status& status,
                                                 int64_t now_ns) {
  if (!IsOpen(workers_[worker], session)) return {};
  const std::string reason = status.ok() ? "it ended the session" : MessageOf(status);
  return {Lose(worker, v1::WORKER_STATE_DEAD, reason, "stream", now_ns)};
}

void Fleet::OnSubmitted(int worker, int64_t prompt_tokens) {
  Worker& it = workers_[worker];
  ++it.sequences_sent;
  it.prefill_tokens_sent += static_cast<uint64_t>(prompt_tokens);
}

void Fleet::OnRefused(int worker, uint64_t session, int64_t prompt_tokens) {
  Worker& it = workers_[worker];
  if (!IsOpen(it, session)) return;
  it.sequences_sent -= std::min<uint64_t>(it.sequences_sent, 1);
  it.prefill_tokens_sent -= std::min(it.prefill_tokens_sent, static_cast<uint64_t>(prompt_tokens));
}

std::vector<RouteCandidate> Fleet::Candidates(const std::string& model) const {
  std::vector<RouteCandidate> candidates;
  for (const Worker& worker : workers_) {
    candidates.push_back(CandidateOf(worker));
    if (worker.config.model != model) candidates.back().ready = false;
  }
  return candidates;
}

RouteCandidate Fleet::CandidateOf(const Worker& worker) const {
  const auto left = [](uint64_t all, uint64_t some) {
    return all > some ? static_cast<int64_t>(all - some) : 0;
  };
  const worker::v1::Load& load = worker.load;
  return {
      .worker = worker.config.name(),
      .ready = worker.session != 0 && worker.state == v1::WORKER_STATE_READY &&
               HoldOf(worker).state == v1::WORKER_STATE_READY,
      .context_tokens_max = worker.described.context_tokens_max(),
      .sequence_credits = left(worker.credits.sequences(), worker.sequences_sent),
      .prefill_token_credits = left(worker.credits.prefill_tokens(), worker.prefill_tokens_sent),
      .prefill_tokens_ahead = load.prefill_tokens_waiting() +
                              left(worker.prefill_tokens_sent, worker.prefill_tokens_reported),
      .sequences_ahead =
          load.sequences_running() + load.sequences_waiting() +
          static_cast<int32_t>(left(worker.sequences_sent, worker.sequences_reported)),
      .prefill_tokens_per_second = load.prefill_tokens_per_second(),
      .step_ms_predicted = load.step_ms_predicted()};
}

v1::WorkerStatus Fleet::StatusOf(const Worker& worker) const {
  v1::WorkerStatus status;
  status.set_pool(worker.config.pool);
  status.set_index(worker.config.index);
  status.set_address(worker.config.grpc_address);
  status.set_model(worker.config.model);
  status.set_state(worker.state);
  status.set_reason(worker.reason);
  if (worker.state == v1::WORKER_STATE_READY) {
    const GroupHold hold = HoldOf(worker);
    status.set_state(hold.state);
    status.set_reason(hold.reason);
  }
  if (worker.state != v1::WORKER_STATE_SPARE) {  // The rank that it had is another's now.
    status.set_group(worker.described.group());
    status.set_rank(worker.described.rank());
    status.set_num_ranks(worker.described.num_ranks());
    status.set_group_epoch(worker.described.group_epoch());
  }
  *status.mutable_expert_choices() = worker.experts.choices();
  status.set_device_class(worker.described.device_class());
  status.set_numerics_id(worker.described.numerics_id());
  status.set_price_usd_per_hour(worker.described.price_usd_per_hour());
  const worker::v1::Load& load = worker.load;
  status.set_sequences_running(load.sequences_running());
  status.set_sequences_waiting(load.sequences_waiting());
  status.set_kv_bytes_used(load.kv_bytes_used());
  status.set_kv_bytes_total(load.kv_bytes_total());
  status.set_steps(worker.step);
  if (load.output_tokens_total() > 0) {
    const double held_usd =
        static_cast<double>(load.held_ns_total()) / 3.6e12 * worker.described.price_usd_per_hour();
    status.set_usd_per_mtok_output(held_usd * 1e6 /
                                   static_cast<double>(load.output_tokens_total()));
  }
  if (worker.session == 0 || worker.samples.empty()) return status;
  const Sample& first = worker.samples.front();
  const double seconds = static_cast<double>(worker.last_heard_ns - first.time_ns) / 1e9;
  if (seconds <= 0) return status;
  status.set_prompt_tokens_per_second(
      static_cast<double>(load.prompt_tokens_total() - first.load.prompt_tokens_total()) / seconds);
  status.set_output_tokens_per_second(
      static_cast<double>(load.output_tokens_total() - first.load.output_tokens_total()) / seconds);
  const int64_t held_ns = load.held_ns_total() - first.load.held_ns_total();
  if (held_ns > 0) {
    status.set_busy_share(static_cast<double>(load.busy_ns_total() - first.load.busy_ns_total()) /
                          static_cast<double>(held_ns));
  }
  return status;
}

std::shared_ptr<const FleetSnapshot> Fleet::Snapshot() const {
  auto snapshot = std::make_shared<FleetSnapshot>();
  for (const Worker& worker : workers_) {
    snapshot->workers.push_back({.candidate = CandidateOf(worker),
                                 .numerics_id = worker.described.numerics_id(),
                                 .status = StatusOf(worker),
                                 .last_heard_ns = worker.session != 0 ? worker.last_heard_ns : 0});
  }
  return snapshot;
}

}  // namespace facet::router
