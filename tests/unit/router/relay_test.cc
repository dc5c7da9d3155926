#include "router/relay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/grpc_status.h"
#include "tests/support/fake_clock.h"
#include "tests/support/router_models.h"

namespace facet::router {
namespace {

using ::testing::HasSubstr;
using worker::v1::Finish;
using worker::v1::StepFrame;
using worker::v1::TokenDelta;

// Records what a shard asks of the rest.
class FakePorts final : public RelayPorts {
 public:
  void Requeue(QueuedRequest request) override { queued.push_back(std::move(request)); }

  void RemoveFromQueue(const ServedModel&, const std::string& id) override {
    removed.push_back(id);
  }

  void ReturnCredit(int, uint64_t, int64_t prefill_tokens) override {
    credits_returned += prefill_tokens;
  }

  void SendToWorker(int worker, uint64_t, worker::v1::RouterMessage message) override {
    EXPECT_EQ(worker, 0);
    cancels.push_back(message.cancel());
  }

  void FrameDone(int, uint64_t) override { ++frames_done; }

  void Settle(std::vector<v1::UsageRecord> records, int worker, uint64_t) override {
    for (v1::UsageRecord& record : records) settled.emplace_back(worker, std::move(record));
  }

  void RequestEnded() override { ++ended; }

  std::vector<QueuedRequest> queued;
  std::vector<std::string> removed;
  std::vector<worker::v1::Cancel> cancels;
  int64_t credits_returned = 0;
  std::vector<std::pair<int, v1::UsageRecord>> settled;  // With the worker, -1 for the router.
  int frames_done = 0;
  int ended = 0;
};

// Keeps all events; `status` is set at the end.
class FakeStream final : public AnswerStream {
 public:
  void OnReadable() override {
    while (auto next = Next()) {
      if (auto* end = std::get_if<Status>(&*next)) {
        status = *end;
        return;
      }
      const auto& event = std::get<AnswerEvent>(*next);
      text += event.text().text();
      if (event.has_finished()) finished = event.finished();
      events.push_back(event);
    }
  }

  std::vector<AnswerEvent> events;
  std::string text;
  v1::Finished finished;
  std::optional<Status> status;
};

class RelayTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kSession = 5;

  // A request of two prompt tokens that was sent to worker 0.
  std::shared_ptr<FakeStream> AddRunning(const std::string& id,
                                         std::vector<std::string> stop = {}) {
    auto stream = AddQueued(id, std::move(stop));
    Dispatch(id, 1);
    return stream;
  }

  std::shared_ptr<FakeStream> AddQueued(const std::string& id, std::vector<std::string> stop = {}) {
    auto stream = std::make_shared<FakeStream>();
    shard_.Turn(One(MakeLive(id, std::move(stop), stream)));
    return stream;
  }

  std::unique_ptr<LiveRequest> MakeLive(const std::string& id,
                                        std::vector<std::string> stop,
                                        std::shared_ptr<AnswerStream> stream) {
    QueuedRequest queued;
    queued.model = &model_;
    queued.tenant = "default";
    queued.submit.set_request_id(id);
    queued.submit.add_prompt_ids(3);
    queued.submit.add_prompt_ids(4);
    queued.submit.set_new_tokens_max(20);
    AnswerText text(model_, {},
                    {.kind = AnswerText::Kind::kChat, .call_id_prefix = id, .stop = stop});
    auto live =
        std::make_unique<LiveRequest>(std::move(queued), std::move(text), std::move(stream));
    live->arrival_ns = clock_.NowNs();
    live->deadline_ns = clock_.NowNs() + 60'000'000'000;
    return live;
  }

  void Dispatch(const std::string& id, uint32_t epoch, int worker = 0) {
    shard_.Turn(One(RequestDispatched{.request_id = id,
                                      .epoch = epoch,
                                      .worker = worker,
                                      .session = kSession,
                                      .worker_name = StrCat("p/", worker),
                                      .numerics_id = "n"}));
  }

  // The ids of a text of single characters.
  std::vector<int32_t> Ids(const std::string& text) const {
    return *model_.tokenizer->Encode(text);
  }

  TokenDelta Delta(const std::string& id, uint32_t position, const std::string& text) const {
    TokenDelta delta;
    delta.set_request_id(id);
    delta.set_epoch(1);
    delta.set_first_position(position);
    for (const int32_t token_id : Ids(text)) delta.add_token_ids(token_id);
    delta.set_decode_ns(7);
    delta.set_cost_nano_usd(3);
    return delta;
  }

  void Frame(const TokenDelta& delta) {
    FrameArrived arrived{.worker = 0, .session = kSession, .frame = {}};
    *arrived.frame.add_deltas() = delta;
    shard_.Turn(One(std::move(arrived)));
  }

  static std::vector<RelayEvent> One(RelayEvent event) {
    std::vector<RelayEvent> events;
    events.push_back(std::move(event));
    return events;
  }

  ServedModel model_ = testing::SmallModel();
  testing::FakeClock clock_;
  MetricsPage<RouterMetrics> metrics_;
  UsageMeter usage_meter_{metrics_, {}};
  FakePorts ports_;
  RelayShard shard_{RelayOptions(), clock_, metrics_, usage_meter_, ports_};
};

TEST_F(RelayTest, ARequestIsQueuedThenAnsweredThenOver) {
  auto stream = AddQueued("r");
  ASSERT_EQ(ports_.queued.size(), 1u);
  EXPECT_EQ(ports_.queued[0].submit.epoch(), 1u);
  Dispatch("r", 1);
  clock_.AdvanceMs(40);
  Frame(Delta("r", 0, "x"));
  EXPECT_TRUE(stream->events.at(0).has_accepted());
  EXPECT_EQ(stream->events[0].accepted().worker(), "p/0");
  clock_.AdvanceMs(10);
  TokenDelta last = Delta("r", 1, "y");
  last.set_finish(Finish::FINISH_LENGTH);
  Frame(last);
  EXPECT_EQ(stream->text, "xy");
  EXPECT_TRUE(stream->status.value().ok());
  EXPECT_EQ(stream->finished.reason(), v1::FINISH_REASON_LENGTH);
  const v1::Usage& usage = stream->finished.usage();
  EXPECT_EQ(usage.prompt_tokens(), 2);
  EXPECT_EQ(usage.completion_tokens(), 2);
  EXPECT_EQ(usage.decode_device_ns(), 14);
  EXPECT_EQ(usage.cost_nano_usd(), 6);
  EXPECT_EQ(usage.ttft_ms(), 40);
  EXPECT_EQ(usage.tpot_ms(), 10);
  EXPECT_EQ(ports_.ended, 1);
  EXPECT_EQ(ports_.frames_done, 2);
  EXPECT_EQ(shard_.num_live(), 0u);
}

TEST_F(RelayTest, EveryTokenIdIsSentOnceAndInOrder) {
  auto stream = AddRunning("r");
  for (uint32_t i = 0; i < 5; ++i) Frame(Delta("r", i, std::string(1, static_cast<char>('a' + i))));
  TokenDelta last = Delta("r", 5, "z");
  last.set_finish(Finish::FINISH_STOP);
  Frame(last);
  std::vector<int32_t> ids;
  for (const AnswerEvent& event : stream->events) {
    if (event.has_text() && event.text().token_ids_size() > 0) {
      EXPECT_EQ(event.text().first_position(), static_cast<int32_t>(ids.size()));
    }
    ids.insert(ids.end(), event.text().token_ids().begin(), event.text().token_ids().end());
  }
  ids.insert(ids.end(), stream->finished.token_ids().begin(), stream->finished.token_ids().end());
  EXPECT_EQ(ids, Ids("abcdez"));
}

TEST_F(RelayTest, FramesOfAnOlderEpochAreCountedAndDropped) {
  auto stream = AddRunning("r");
  TokenDelta old = Delta("r", 0, "x");
  old.set_epoch(7);
  Frame(old);
  EXPECT_TRUE(stream->events.empty());
  EXPECT_EQ(metrics_.Write()->frames_dropped.At("epoch").value(), 1);
  EXPECT_EQ(shard_.num_live(), 1u);
}

TEST_F(RelayTest, AGapInTheTokensEndsTheRequest) {
  auto stream = AddRunning("r");
  Frame(Delta("r", 2, "x"));
  EXPECT_EQ(stream->status.value().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(MessageOf(*stream->status), HasSubstr("sent token 2 where 0 comes next"));
  EXPECT_EQ(ports_.cancels.size(), 1u);
}

TEST_F(RelayTest, AStopStringEndsTheAnswerAndCancelsTheWork) {
  auto stream = AddRunning("r", {"bc"});
  Frame(Delta("r", 0, "ab"));
  Frame(Delta("r", 2, "cd"));
  EXPECT_EQ(stream->text, "a");
  EXPECT_EQ(stream->finished.reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(stream->finished.usage().completion_tokens(), 4);
  ASSERT_EQ(ports_.cancels.size(), 1u);
  EXPECT_EQ(ports_.cancels[0].reason(), worker::v1::CANCEL_REASON_STOP_STRING);
}

TEST_F(RelayTest, AChargeAfterTheEndStillCounts) {
  auto stream = AddRunning("r", {"b"});
  Frame(Delta("r", 0, "ab"));
  ASSERT_TRUE(stream->status.has_value());
  Frame(Delta("r", 2, "c"));
  EXPECT_EQ(stream->finished.usage().cost_nano_usd(), 3);
  EXPECT_EQ(metrics_.Write()->charged.At("m", "default").value(), 6);
  EXPECT_EQ(metrics_.Write()->frames_dropped.At("unknown_request").value(), 0);
}

TEST_F(RelayTest, ASettledRecordLearnsHowTheAnswerEnded) {
  AddRunning("a");
  TokenDelta last = Delta("a", 0, "x");
  last.set_finish(Finish::FINISH_STOP);
  Frame(last);
  SettledArrived arrived{.worker = 0, .session = kSession};
  arrived.records.resize(2);
  arrived.records[0].set_request_id("a");
  arrived.records[0].set_epoch(1);
  arrived.records[1].set_request_id("of another router");
  shard_.Turn(One(std::move(arrived)));
  ASSERT_EQ(ports_.settled.size(), 2u);
  EXPECT_EQ(ports_.settled[0].first, 0) << "the worker waits for a confirmation";
  EXPECT_EQ(ports_.settled[0].second.outcome(), "OK");
  EXPECT_EQ(ports_.settled[1].second.outcome(), "");
  shard_.Turn(One(WorkerLost{.worker = 0, .session = kSession, .reason = "gone"}));
  EXPECT_EQ(ports_.settled.size(), 2u) << "its account is closed";
}

TEST_F(RelayTest, AccountsThatAreOpenWhenAWorkerIsLostAreSettledByTheRouter) {
  AddRunning("ended");
  AddRunning("runs");
  TokenDelta last = Delta("ended", 0, "x");
  last.set_finish(Finish::FINISH_STOP);
  Frame(last);
  Frame(Delta("ended", 1, ""));  // A step that was under way.
  Frame(Delta("runs", 0, "x"));
  shard_.Turn(One(WorkerLost{.worker = 0, .session = kSession, .reason = "gone"}));
  ASSERT_EQ(ports_.settled.size(), 2u);
  for (const auto& [worker, record] : ports_.settled) {
    const bool ended = record.request_id() == "ended";
    EXPECT_EQ(worker, -1);
    EXPECT_EQ(record.settled_by(), "router");
    EXPECT_EQ(record.tenant(), "default");
    EXPECT_EQ(record.outcome(), ended ? "OK" : "UNAVAILABLE");
    EXPECT_EQ(record.finish(), ended ? "stop" : "lost");
    EXPECT_EQ(record.decode_nano_usd(), ended ? 6 : 3);
    EXPECT_EQ(record.prompt_tokens(), 2);
  }
}

TEST_F(RelayTest, AClientThatLeavesCancelsTheWork) {
  auto stream = AddRunning("r");
  shard_.Turn(One(ClientGone{"r"}));
  EXPECT_EQ(stream->status.value().code(), absl::StatusCode::kCancelled);
  ASSERT_EQ(ports_.cancels.size(), 1u);
  EXPECT_EQ(ports_.cancels[0].request_id(), "r");
}

TEST_F(RelayTest, AClientThatLeftBeforeTheRequestCameIsNotServed) {
  auto stream = std::make_shared<FakeStream>();
  stream->MarkClientGone();
  shard_.Turn(One(MakeLive("r", {}, stream)));
  EXPECT_EQ(stream->status.value().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(ports_.queued.empty());
}

TEST_F(RelayTest, ARequestThatEndedWhileItWasSentIsCancelledOnTheWorker) {
  AddQueued("r");
  shard_.Turn(One(ClientGone{"r"}));
  EXPECT_EQ(ports_.removed, std::vector<std::string>{"r"});
  Dispatch("r", 1);
  ASSERT_EQ(ports_.cancels.size(), 1u);
  EXPECT_EQ(ports_.cancels[0].epoch(), 1u);
}

TEST_F(RelayTest, TheDeadlineEndsRunningAndQueuedRequests) {
  auto running = AddRunning("a");
  auto queued = AddQueued("b");
  clock_.AdvanceMs(60'000);
  shard_.Turn({});
  EXPECT_EQ(running->status.value().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(queued->status.value().code(), absl::StatusCode::kDeadlineExceeded);
  ASSERT_EQ(ports_.cancels.size(), 1u);
  EXPECT_EQ(ports_.cancels[0].reason(), worker::v1::CANCEL_REASON_DEADLINE);
  EXPECT_EQ(ports_.removed, std::vector<std::string>{"b"});
}

TEST_F(RelayTest, ALostWorkerEndsItsRequestsAndNoOthers) {
  auto hit = AddRunning("a");
  auto queued = AddQueued("b");
  shard_.Turn(One(WorkerLost{.worker = 0, .session = kSession, .reason = "worker p/0 was lost"}));
  EXPECT_EQ(hit->status.value().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(MessageOf(*hit->status), HasSubstr("p/0"));
  EXPECT_EQ(ReasonOf(*hit->status), "WORKER_LOST");
  EXPECT_TRUE(RetryAfterMsOf(*hit->status).has_value());
  EXPECT_FALSE(queued->status.has_value());
}

TEST_F(RelayTest, AnAnswerThatBeganIsNotSafeToRetry) {
  auto stream = AddRunning("a");
  Frame(Delta("a", 0, "x"));
  shard_.Turn(One(WorkerLost{.worker = 0, .session = kSession, .reason = "gone"}));
  EXPECT_FALSE(RetryAfterMsOf(stream->status.value()).has_value());
}

TEST_F(RelayTest, WithAttemptsLeftALostRequestIsQueuedWithItsCommittedTokens) {
  RelayShard shard({.attempts_max = 2, .lost_retry_after_ms = 1}, clock_, metrics_, usage_meter_,
                   ports_);
  auto stream = std::make_shared<FakeStream>();
  shard.Turn(One(MakeLive("r", {}, stream)));
  shard.Turn(One(RequestDispatched{.request_id = "r", .epoch = 1, .session = kSession}));
  FrameArrived arrived{.worker = 0, .session = kSession, .frame = {}};
  *arrived.frame.add_deltas() = Delta("r", 0, "xy");
  shard.Turn(One(std::move(arrived)));
  shard.Turn(One(WorkerLost{.worker = 0, .session = kSession, .reason = "gone"}));
  ASSERT_EQ(ports_.queued.size(), 2u);
  EXPECT_EQ(ports_.queued[1].submit.epoch(), 2u);
  EXPECT_EQ(ports_.queued[1].submit.committed_ids_size(), 2);
  EXPECT_FALSE(stream->status.has_value());
}

TEST_F(RelayTest, ARefusedSubmitIsQueuedAgainOrEndsTheRequest) {
  auto again = AddRunning("a");
  auto over = AddRunning("b");
  SubmitWasRefused refusal{.worker = 0, .session = kSession, .refused = {}};
  refusal.refused.set_request_id("a");
  refusal.refused.set_epoch(1);
  refusal.refused.set_code(static_cast<int>(absl::StatusCode::kResourceExhausted));
  shard_.Turn(One(refusal));
  EXPECT_EQ(ports_.queued.back().submit.request_id(), "a");
  EXPECT_EQ(ports_.queued.back().submit.epoch(), 2u);
  EXPECT_EQ(ports_.credits_returned, 2);
  refusal.refused.set_request_id("b");
  refusal.refused.set_code(static_cast<int>(absl::StatusCode::kInvalidArgument));
  shard_.Turn(One(refusal));
  EXPECT_FALSE(again->status.has_value());
  EXPECT_EQ(over->status.value().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace facet::router
