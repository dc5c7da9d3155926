#include "worker/engine/engine.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/log.h"
#include "worker/engine/batch_builder.h"

namespace facet::worker {
namespace {

DeviceState StateOf(const StepPlan& plan) {
  bool prefill = false;
  bool decode = false;
  for (const PlannedChunk& chunk : plan.chunks()) (IsDecode(chunk) ? decode : prefill) = true;
  if (prefill && decode) return DeviceState::kMixed;
  return decode ? DeviceState::kDecode : DeviceState::kPrefill;
}

int64_t SumOf(const std::vector<uint64_t>& weights) {
  return static_cast<int64_t>(std::accumulate(weights.begin(), weights.end(), uint64_t{0}));
}

const char* WasteReason(FinishReason reason) {
  return reason == FinishReason::kDeadline ? "deadline_missed" : "client_gone";
}

// Weight of the newest step in the running means.
constexpr double kNewest = 0.2;

void MoveMean(double& mean, double value) {
  mean = mean == 0 ? value : mean + kNewest * (value - mean);
}

}  // namespace

Engine::Engine(const EngineOptions& options,
               Executor& executor,
               EngineSink& sink,
               const Clock& clock)
    : options_(options),
      executor_(executor),
      sink_(sink),
      clock_(clock),
      inbox_(options.inbox_max),
      scheduler_(options.scheduler, executor.info().kv),
      step_model_(options.step_model),
      stats_(options.prices, clock),
      expert_load_(clock.NowNs()) {
  FACET_CHECK_LE(options.scheduler.step_tokens_max, executor.info().step_tokens_max);
  FACET_CHECK_LE(options.scheduler.running_max, executor.info().running_max);
  executor.SetAssistObserver(&stats_);
}

Engine::~Engine() {
  executor_.SetAssistObserver(nullptr);
  Stop();
}

void Engine::Start() {
  stats_.EndLoading();
  thread_ = std::thread([this] { ThreadMain(); });
}

void Engine::Stop() {
  inbox_.Close();
  if (thread_.joinable()) thread_.join();
}

Status Engine::AddRequest(SequenceRequest request) {
  if (inbox_.TryPush(std::move(request))) return absl::OkStatus();
  return ResourceExhausted("the worker's inbox is full or closed");
}

void Engine::CancelRequest(
    uint64_t session_id, std::string request_id, uint32_t epoch, FinishReason reason, bool wasted) {
  // A full inbox drains within a step; the request then ends by its deadline or session instead.
  if (!inbox_.TryPush(CancelCommand{session_id, std::move(request_id), epoch, reason, wasted})) {
    Log(kWarning, "cancel dropped: inbox full");
  }
}

void Engine::OpenSession(uint64_t session_id) {
  if (!inbox_.TryPush(OpenCommand{session_id})) Log(kWarning, "session dropped: inbox full");
}

void Engine::CloseSession(uint64_t session_id) {
  if (!inbox_.TryPush(CloseCommand{session_id})) Log(kWarning, "close dropped: inbox full");
}

void Engine::Drain(std::function<void()> on_drained) {
  if (!inbox_.TryPush(DrainCommand{std::move(on_drained)})) {
    Log(kWarning, "drain dropped: inbox full");
  }
}

void Engine::Suspend(Status cause) { inbox_.PushBeyond(SuspendCommand{std::move(cause)}); }

void Engine::Resume(std::function<void()> on_resumed) {
  inbox_.PushBeyond(ResumeCommand{std::move(on_resumed)});
}

void Engine::ThreadMain() {
  engine_thread_.Rebind();
  while (true) {
    if (Step()) continue;
    if (inbox_.closed()) break;
    // Deadlines of waiting sequences cannot pass here: with nothing to compute nothing waits.
    TakeCommands(inbox_.WaitAndDrain());
  }
  for (Sequence* seq : scheduler_.Alive()) {
    CountWaste(*seq, WasteReason(FinishReason::kCancelled));
    EndNow(*seq, FinishReason::kCancelled);
  }
}

bool Engine::Step() {
  engine_thread_.Check();
  TakeCommands(inbox_.Drain());
  ResumeIfIdle();
  ExpireDeadlines();
  if (inbox_.closed() && in_flight_.empty()) return false;

  StepPlan plan = scheduler_.Schedule(/*may_preempt=*/in_flight_.empty());  // 5 schedule
  const bool planned = !plan.empty();
  if (planned) SubmitStep(std::move(plan));  // 6 execute
  const bool overlap_is_full = in_flight_.size() == 2;
  if (overlap_is_full || (!planned && !in_flight_.empty())) {
    FinishStep();  // 7 publish
    return true;
  }
  return planned;
}

void Engine::SubmitStep(StepPlan plan) {
  StepBatch batch = BuildBatch(plan);
  for (const PlannedChunk& chunk : plan.chunks()) {
    expert_load_.Count(chunk.sequence->request().tenant, chunk.num_tokens);
  }
  batch.return_expert_choices = expert_load_.Open(clock_.NowNs());
  const std::vector<StepRow> rows = StepRowsOf(plan);
  std::vector<uint64_t> weights = step_model_.Weights(rows);
  batch.weight = SumOf(weights);
  const double predicted_ns = step_model_.predicts ? step_model_.StepNs(rows) : 0;
  if (in_flight_.empty()) stats_.StepBegins(predicted_ns);
  const Ticket ticket = executor_.Submit(batch);
  in_flight_.push_back({.ticket = ticket,
                        .plan = std::move(plan),
                        .weights = std::move(weights),
                        .predicted_ns = predicted_ns,
                        .work = WorkOf(rows, executor_.info().work),
                        .step = ++num_steps_});
}

void Engine::FinishStep() {
  InFlight step = std::move(in_flight_.front());
  StepResult result = executor_.Await(step.ticket);
  if (!result.status.ok()) LoseAll(result.status);
  in_flight_.pop_front();
  if (!result.status.ok()) {
    stats_.StepFails(/*another_in_flight=*/!in_flight_.empty());
    scheduler_.OnStepDone(step.plan);
    ForgetFinished();
    Publish({}, step.step, 0);
    TellSettled();
    return;
  }
  std::map<uint64_t, StepFrame> frames = Commit(step, result);
  scheduler_.OnStepDone(step.plan);
  ForgetFinished();
  Publish(std::move(frames), step.step, result.device_ns);
  TellSettled();
}

std::map<uint64_t, StepFrame> Engine::Commit(const InFlight& step, StepResult& result) {
  const std::vector<Charge> charges = Bill(step, result);
  std::map<uint64_t, StepFrame> frames;
  for (size_t i = 0; i < charges.size(); ++i) {
    const PlannedChunk& chunk = step.plan.chunks()[i];
    TokenDelta delta = CommitRow(chunk, result.rows[i], charges[i]);
    frames[chunk.sequence->request().session_id].deltas.push_back(std::move(delta));
  }
  return frames;
}

TokenDelta Engine::CommitRow(const PlannedChunk& chunk, RowResult& row, const Charge& charge) {
  Sequence& seq = *chunk.sequence;
  const SequenceRequest& request = seq.request();
  TokenDelta delta{.request_id = request.request_id,
                   .epoch = request.epoch,
                   .first_position = seq.num_published,
                   .prefill_ns = charge.is_decode ? 0 : charge.spent.ns,
                   .decode_ns = charge.is_decode ? charge.spent.ns : 0,
                   .cost_nano_usd = charge.spent.nano_usd};
  if (chunk.samples) --seq.num_pending;
  // What is drawn for a sequence that has ended meanwhile is thrown away.
  if (!chunk.samples || seq.state == SequenceState::kFinished) return delta;
  if (!row.finite) {
    CountWaste(seq, "error");
    scheduler_.Finish(seq, FinishReason::kError);
    delta.finish = FinishReason::kError;
    return delta;
  }
  SettledAccount& account = accounts_.at(&seq);
  account.last_token_unix_ns = account.end_unix_ns;  // Bill has set it for this step.
  if (account.first_token_unix_ns == 0) account.first_token_unix_ns = account.end_unix_ns;
  ++account.num_output_tokens;
  seq.Append(row.token);
  delta.token_ids.push_back(row.token);
  if (request.sampling.num_logprobs > 0) delta.logprobs.push_back(std::move(row));
  ++seq.num_published;
  stats_.Update([&](EngineStats& stats) {
    ++stats.UseOf(request.tenant).output_tokens;
    ++stats.load.output_tokens_total;
  });
  const bool stop = std::find(request.stop_ids.begin(), request.stop_ids.end(),
                              delta.token_ids[0]) != request.stop_ids.end();
  if (stop) {
    scheduler_.Finish(seq, FinishReason::kStop);
  } else if (seq.num_generated() >= request.new_tokens_max) {
    scheduler_.Finish(seq, FinishReason::kLength);
  }
  delta.finish = seq.finish;
  return delta;
}

std::vector<Charge> Engine::Bill(const InFlight& step, const StepResult& result) {
  const DeviceState state = StateOf(step.plan);
  std::vector<Charge> charges;
  stats_.StepEnds(
      state, result.device_ns, /*another_in_flight=*/!in_flight_.empty(),
      [&](EngineStats& stats, const Spent& spent) {
        Spent paid = spent;
        if (result.num_ranks > 0) {
          paid = PartOfGroup(spent, SumOf(step.weights), result.group_weight, result.num_ranks);
        }
        BookBetweenRanks(spent, paid, stats);
        charges = ChargeStep(step.plan, step.weights, paid);
        for (size_t i = 0; i < charges.size(); ++i) {
          Bill(step.plan.chunks()[i], charges[i], stats);
        }
        ++stats.steps;
        stats.work.prefill += step.work.prefill;
        stats.work.decode += step.work.decode;
        if (!result.expert_choices.empty()) {
          stats.expert_choices = result.expert_choices;
        }
        stats.preemptions = scheduler_.num_preemptions();
        const auto ns = static_cast<double>(spent.ns);
        MoveMean(stats.step_ms_mean, ns / 1e6);
        if (step.predicted_ns > 0 && spent.ns > 0) {
          MoveMean(stats.step_model_error_ratio, std::abs(step.predicted_ns - ns) / ns);
        }
        if (!step_model_.predicts) {
          stats.load.step_ms_predicted = stats.step_ms_mean;
          if (state == DeviceState::kPrefill && spent.ns > 0) {
            MoveMean(stats.load.prefill_tokens_per_second, step.plan.num_tokens() * 1e9 / ns);
          }
        }
        stats.step_predicted_ns = in_flight_.empty() ? 0 : in_flight_.front().predicted_ns;
      });
  return charges;
}

void Engine::Bill(const PlannedChunk& chunk, const Charge& charge, EngineStats& stats) {
  const Sequence& seq = *chunk.sequence;
  const auto it = accounts_.find(&seq);
  FACET_CHECK(it != accounts_.end());
  SettledAccount& account = it->second;
  account.end_unix_ns = clock_.UnixNs();
  TenantUse& use = stats.UseOf(seq.request().tenant);
  (charge.is_decode ? account.decode : account.prefill) += charge.spent;
  (charge.is_decode ? use.decode : use.prefill) += charge.spent;
  const auto waste = [&](const char* reason, int64_t ns) {
    if (ns == 0) return;
    stats.wasted_ns[reason] += ns;
    account.wasted_ns[reason] += ns;
  };
  if (seq.state == SequenceState::kFinished) {
    waste("overrun", charge.spent.ns);  // It was planned before its end was known.
  } else {
    waste("preempt_recompute", charge.recomputed_ns);
    waste("migration_replay", charge.replayed_ns);
  }
}

void Engine::CountWaste(const Sequence& seq, const char* reason) {
  SettledAccount& account = accounts_.at(&seq);
  int64_t ns = account.prefill.ns + account.decode.ns;
  for (const auto& [before, wasted_ns] : account.wasted_ns) ns -= wasted_ns;
  account.wasted_ns[reason] += ns;
  stats_.Update([&](EngineStats& stats) { stats.wasted_ns[reason] += ns; });
}

void Engine::Publish(std::map<uint64_t, StepFrame> frames, uint64_t step, int64_t step_ns) {
  const Load load = CurrentLoad();
  std::map<uint64_t, Credits> credits;
  for (auto& [session_id, session] : sessions_) {
    StepFrame& frame = frames[session_id];
    frame.session_id = session_id;
    frame.step = step;
    frame.step_ns = step_ns;
    frame.credits = Grant(session);
    frame.load = load;
    credits[session_id] = session;
  }
  stats_.Update([&](EngineStats& stats) {
    stats.load = load;
    stats.credits = std::move(credits);
  });
  for (auto& [session_id, frame] : frames) {
    if (sessions_.contains(session_id)) sink_.OnStepFrame(std::move(frame));
  }
  const bool idle = scheduler_.num_running() + scheduler_.num_waiting() == 0 && in_flight_.empty();
  if (draining_ && idle && on_drained_) std::exchange(on_drained_, nullptr)();
}

void Engine::TakeCommands(std::vector<Command> commands) {
  for (Command& command : commands) {
    std::visit([this](auto& one) { OnCommand(one); }, command);
  }
  if (commands.empty() || !in_flight_.empty()) return;
  // Sessions learn of their credits at once, not only with the next step.
  Publish({}, num_steps_, 0);
}

void Engine::OnCommand(SequenceRequest& request) {
  const uint64_t session_id = request.session_id;
  const auto prompt_tokens = request.prompt_ids.size();
  Refusal refusal{
      .session_id = session_id, .request_id = request.request_id, .epoch = request.epoch};
  const auto prefill_tokens = prompt_tokens + request.committed_ids.size();
  const auto session = sessions_.find(session_id);
  if (session == sessions_.end()) return;  // Its stream has ended meanwhile.
  const std::string id = request.request_id;
  const std::string tenant = request.tenant;
  refusal.status = draining_    ? Unavailable("the worker drains")
                   : suspended_ ? Unavailable("the worker's group is not formed")
                                : scheduler_.Add(std::move(request), clock_.NowNs());
  if (!refusal.status.ok()) {
    sink_.OnRefusal(std::move(refusal));
    return;
  }
  session->second.sequences_received += 1;
  session->second.prefill_tokens_received += prefill_tokens;
  accounts_[scheduler_.Find(session_id, id)] = {.start_unix_ns = clock_.UnixNs()};
  stats_.Update([&](EngineStats& stats) {
    stats.UseOf(tenant).prompt_tokens += prompt_tokens;
    stats.load.prompt_tokens_total += prompt_tokens;
  });
}

void Engine::OnCommand(CancelCommand& command) {
  Sequence* seq = scheduler_.Find(command.session_id, command.request_id);
  if (seq == nullptr || seq->request().epoch != command.epoch ||
      seq->state == SequenceState::kFinished) {
    return;
  }
  if (command.wasted) CountWaste(*seq, WasteReason(command.reason));
  EndNow(*seq, command.reason);
}

void Engine::OnCommand(OpenCommand& command) { sessions_[command.session_id] = Credits{}; }

void Engine::OnCommand(CloseCommand& command) {
  for (Sequence* seq : scheduler_.Alive()) {
    if (seq->request().session_id != command.session_id) continue;
    CancelCommand cancel{command.session_id, seq->id(), seq->request().epoch,
                         FinishReason::kCancelled, /*wasted=*/true};
    OnCommand(cancel);
  }
  sessions_.erase(command.session_id);
}

void Engine::OnCommand(DrainCommand& command) {
  draining_ = true;
  on_drained_ = std::move(command.on_drained);
  stats_.SetDraining();
}

void Engine::OnCommand(SuspendCommand& command) {
  on_resumed_ = nullptr;  // What it waited for is over, too.
  LoseAll(command.cause);
}

void Engine::OnCommand(ResumeCommand& command) {
  on_resumed_ = std::move(command.on_resumed);
  ResumeIfIdle();
}

// Steps that failed may still be in flight; they belong to what was lost.
void Engine::ResumeIfIdle() {
  if (!on_resumed_ || !in_flight_.empty()) return;
  suspended_ = false;
  stats_.SetSuspended(false);
  std::exchange(on_resumed_, nullptr)();
}

// Steps that still run are waited for as usual.
void Engine::LoseAll(const Status& cause) {
  if (suspended_) return;
  suspended_ = true;
  stats_.SetSuspended(true);
  sessions_.clear();  // So that nobody is told of ends: the sessions end themselves.
  for (Sequence* seq : scheduler_.Alive()) {
    CountWaste(*seq, "group_lost");
    EndNow(*seq, FinishReason::kError);
  }
  sink_.OnLost(cause);
}

void Engine::ExpireDeadlines() {
  const int64_t now = clock_.UnixNs();
  for (Sequence* seq : scheduler_.Alive()) {
    const int64_t deadline = seq->request().deadline_unix_ns;
    if (deadline == 0 || now < deadline) continue;
    CancelCommand cancel{seq->request().session_id, seq->id(), seq->request().epoch,
                         FinishReason::kDeadline, /*wasted=*/true};
    OnCommand(cancel);
  }
}

void Engine::EndNow(Sequence& seq, FinishReason reason) {
  const SequenceRequest& request = seq.request();
  StepFrame frame{.session_id = request.session_id, .step = num_steps_};
  frame.deltas.push_back({.request_id = request.request_id,
                          .epoch = request.epoch,
                          .first_position = seq.num_published,
                          .finish = reason});
  scheduler_.Finish(seq, reason);
  ForgetFinished();
  const auto session = sessions_.find(frame.session_id);
  if (session != sessions_.end()) {
    frame.credits = Grant(session->second);
    frame.load = CurrentLoad();
    sink_.OnStepFrame(std::move(frame));
  }
  TellSettled();
}

void Engine::ForgetFinished() {
  for (const std::unique_ptr<Sequence>& seq : scheduler_.TakeFinished()) {
    SettledAccount account = std::move(accounts_.extract(seq.get()).mapped());
    account.session_id = seq->request().session_id;
    account.request_id = seq->id();
    account.epoch = seq->request().epoch;
    account.tenant = seq->request().tenant;
    account.finish = seq->finish;
    account.num_prompt_tokens = seq->num_prompt_tokens();
    if (account.end_unix_ns == 0) account.end_unix_ns = clock_.UnixNs();
    settled_.push_back(std::move(account));
    stats_.Update([&](EngineStats& stats) { ++stats.finished[NameOf(seq->finish)]; });
  }
}

void Engine::TellSettled() {
  for (SettledAccount& account : settled_) sink_.OnSettled(std::move(account));
  settled_.clear();
}

// Free places and a prompt budget, divided among sessions. Totals never go back: what was granted
// stays granted.
const Credits& Engine::Grant(Credits& session) {
  const SchedulerOptions& options = options_.scheduler;
  const auto num_sessions = std::max<int64_t>(1, static_cast<int64_t>(sessions_.size()));
  const int64_t held = scheduler_.num_running() + scheduler_.num_waiting();
  const int64_t free_places =
      draining_ ? 0 : std::max<int64_t>(0, options.running_max + options.waiting_max - held);
  const int64_t prompt_budget =
      draining_ ? 0
                : std::max<int64_t>(0, context_tokens_max() - scheduler_.prefill_tokens_waiting());
  // One place each at least, so that a session is never starved by the others' shares.
  const int64_t places = free_places == 0 ? 0 : std::max<int64_t>(1, free_places / num_sessions);
  session.sequences = std::max(session.sequences, session.sequences_received + places);
  session.prefill_tokens = std::max(session.prefill_tokens,
                                    session.prefill_tokens_received + prompt_budget / num_sessions);
  return session;
}

Load Engine::CurrentLoad() const {
  Load load = stats_.LoadNow();
  load.sequences_running = scheduler_.num_running();
  load.sequences_waiting = scheduler_.num_waiting();
  load.prefill_tokens_waiting = scheduler_.prefill_tokens_waiting();
  load.kv_bytes_used = scheduler_.blocks().used_bytes();
  load.kv_bytes_total = scheduler_.blocks().total_bytes();
  if (step_model_.predicts) {
    std::vector<StepRow> rows = scheduler_.DecodeRows();
    rows.push_back({.is_decode = true});
    load.step_ms_predicted = step_model_.StepNs(rows) / 1e6;
    load.prefill_tokens_per_second =
        step_model_.PrefillTokensPerSecond(scheduler_.options().chunk_tokens_max);
  }
  return load;
}

}  // namespace facet::worker
