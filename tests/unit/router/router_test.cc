// The router's threads together, without gRPC: links are fakes in this process, so a thread
// sanitizer sees every access.
#include "router/router.h"

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <thread>

#include "base/bounded_queue.h"
#include "tests/support/router_models.h"

namespace facet::router {
namespace {

using worker::v1::RouterMessage;
using worker::v1::WorkerMessage;

// A worker on a thread of its own that answers each submit with the prompt's ids, a step at a time.
class EchoLink final : public WorkerLink {
 public:
  EchoLink(const GrpcWorkerClient::Options& options, WorkerLinkListener& listener)
      : worker_(options.worker), listener_(listener), thread_([this] { Run(); }) {}

  ~EchoLink() override {
    inbox_.Close();
    thread_.join();
  }

  void Describe() override {
    worker::v1::DescribeResponse response;
    response.set_model("m");
    response.set_pool("p");
    response.set_index(worker_);
    response.set_config_digest("c0");
    response.set_tokenizer_digest("t0");
    response.set_context_tokens_max(100);
    listener_.OnDescribed(worker_, std::move(response));
  }

  void OpenSession(uint64_t session) override { Post(session, RouterMessage()); }

  void Send(uint64_t session, RouterMessage message) override { Post(session, std::move(message)); }

  void CloseSession(uint64_t /*session*/) override {}

  void FrameDone(uint64_t /*session*/) override {}

 private:
  void Post(uint64_t session, RouterMessage message) {
    ASSERT_TRUE(inbox_.TryPush({session, std::move(message)}) || inbox_.closed());
  }

  void Run() {
    constexpr auto kStep = absl::Milliseconds(1);
    while (!inbox_.closed()) {
      for (const auto& [session, message] : inbox_.WaitAndDrain(kStep)) {
        session_ = session;
        if (message.has_submit()) running_[message.submit().request_id()] = {message.submit(), 0};
        if (message.has_cancel()) running_.erase(message.cancel().request_id());
      }
      if (session_ != 0) Step();
    }
  }

  void Step() {
    WorkerMessage message;
    for (auto it = running_.begin(); it != running_.end();) {
      auto& [submit, next] = it->second;
      worker::v1::TokenDelta& delta = *message.mutable_step()->add_deltas();
      delta.set_request_id(submit.request_id());
      delta.set_epoch(submit.epoch());
      delta.set_first_position(static_cast<uint32_t>(next));
      delta.add_token_ids(submit.prompt_ids(next++));
      delta.set_cost_nano_usd(1);
      const bool last = next == submit.prompt_ids_size();
      if (last) delta.set_finish(worker::v1::FINISH_STOP);
      it = last ? running_.erase(it) : std::next(it);
    }
    if (message.has_step()) listener_.OnMessage(worker_, session_, std::move(message));
    WorkerMessage beat;
    beat.mutable_heartbeat()->set_ready(true);
    beat.mutable_heartbeat()->mutable_credits()->set_sequences(1 << 20);
    beat.mutable_heartbeat()->mutable_credits()->set_prefill_tokens(1 << 20);
    listener_.OnMessage(worker_, session_, std::move(beat));
  }

  const int worker_;
  WorkerLinkListener& listener_;
  BoundedQueue<std::pair<uint64_t, RouterMessage>> inbox_{1 << 16};
  uint64_t session_ = 0;  // With running_, of the link's thread.
  std::map<std::string, std::pair<worker::v1::Submit, int>> running_;
  std::thread thread_;  // Last: it uses all of the above.
};

// Takes what comes and remembers the ids and the end.
class CollectingStream final : public AnswerStream {
 public:
  Status AwaitEnd() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(
        +[](std::optional<Status>* end) { return end->has_value(); }, &end_));
    return *end_;
  }

  int num_tokens() {
    absl::MutexLock lock(&mutex_);
    return num_tokens_;
  }

 private:
  void OnReadable() override {
    while (auto next = Next()) {
      absl::MutexLock lock(&mutex_);
      if (auto* end = std::get_if<Status>(&*next)) {
        end_ = *end;
        return;
      }
      const auto& event = std::get<AnswerEvent>(*next);
      num_tokens_ += event.text().token_ids_size() + event.finished().token_ids_size();
    }
  }

  absl::Mutex mutex_;
  int num_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<Status> end_ ABSL_GUARDED_BY(mutex_);
};

TEST(RouterTest, ManyClientsAtOnceGetAllTheirTokensOrTheirCancel) {
  v1::ClusterConfig config;
  config.mutable_router()->set_relay_threads(2);
  config.mutable_router()->set_prepare_threads(2);
  config.mutable_router()->set_queue_requests_max(10'000);
  config.mutable_router()->set_queue_wait_ms_max(60'000);
  config.mutable_router()->set_deadline_ms_default(60'000);
  v1::PoolConfig& pool = *config.add_pools();
  pool.set_name("p");
  pool.set_model("m");
  pool.add_workers()->set_grpc_address("unused:1");
  pool.add_workers()->set_grpc_address("unused:2");
  RouterOptions options;
  options.fleet.silence_ms_max = 60'000;  // A sanitizer is slow.
  options.make_link = [](const GrpcWorkerClient::Options& link, WorkerLinkListener& listener) {
    return std::make_unique<EchoLink>(link, listener);
  };
  std::vector<ServedModel> models;
  models.push_back(testing::SmallModel());
  Router router(config, std::move(models), options, Clock::Real());
  router.Start();
  constexpr int kClients = 4;
  constexpr int kRequests = 50;
  std::vector<std::thread> clients;
  for (int c = 0; c < kClients; ++c) {
    clients.emplace_back([&router] {
      for (int i = 1; i <= kRequests; ++i) {
        ClientRequest request;
        const int length = 1 + i % 20;
        request.prompt = TokenPrompt{std::vector<int32_t>(static_cast<size_t>(length), 5)};
        request.arrival_ns = router.clock().NowNs();
        auto stream = std::make_shared<CollectingStream>();
        const std::string request_id = router.Accept(std::move(request), stream);
        if (i % 5 == 0) {
          stream->MarkClientGone();
          router.OnClientGone(request_id);
        }
        const Status status = stream->AwaitEnd();
        if (status.ok()) {
          EXPECT_EQ(stream->num_tokens(), length);
        } else {
          EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
        }
      }
    });
  }
  // Who asks meanwhile holds what it reads: the fleet is another one many times a second.
  std::atomic<bool> done{false};
  std::thread watcher([&] {
    while (!done) {
      const v1::GetStatusResponse status = router.GetStatus();
      ASSERT_EQ(status.workers_size(), 2);
      for (const v1::WorkerStatus& worker : status.workers()) ASSERT_EQ(worker.pool(), "p");
    }
  });
  for (std::thread& client : clients) client.join();
  done = true;
  watcher.join();
  router.Drain(10'000);
  EXPECT_EQ(router.metrics().Write()->requests_running.At("m").value(), 0);
  router.Stop();
}

}  // namespace
}  // namespace facet::router
