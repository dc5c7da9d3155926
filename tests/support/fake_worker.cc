#include "tests/support/fake_worker.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <thread>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "facet/worker/v1/worker.grpc.pb.h"

namespace facet::testing {

using worker::v1::Finish;
using worker::v1::RouterMessage;
using worker::v1::TokenDelta;
using worker::v1::WorkerMessage;

struct ScriptedWorker::State final : worker::v1::WorkerService::Service {
  using Stream = grpc::ServerReaderWriter<WorkerMessage, RouterMessage>;

  struct Sequence {
    worker::v1::Submit submit;
    std::vector<int32_t> tokens;
    size_t next = 0;
  };

  // What one Session has in hand; its reader thread and its stepping thread share it.
  struct Session {
    absl::Mutex mutex;
    std::map<std::string, Sequence> sequences ABSL_GUARDED_BY(mutex);
    std::vector<WorkerMessage> replies ABSL_GUARDED_BY(mutex);
    bool closed ABSL_GUARDED_BY(mutex) = false;
    uint64_t sequences_ended ABSL_GUARDED_BY(mutex) = 0;
    uint64_t prefill_ended ABSL_GUARDED_BY(mutex) = 0;
    uint64_t step ABSL_GUARDED_BY(mutex) = 0;
  };

  explicit State(Options given) : options(std::move(given)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(this);
    server = builder.BuildAndStart();
  }

  grpc::Status Describe(grpc::ServerContext* /*context*/,
                        const worker::v1::DescribeRequest* /*request*/,
                        worker::v1::DescribeResponse* response) override {
    *response = options.describe;
    return grpc::Status::OK;
  }

  grpc::Status Session(grpc::ServerContext* context, Stream* stream) override {
    struct Session session;
    std::thread reader([&] {
      RouterMessage message;
      while (stream->Read(&message)) Take(message, session);
      absl::MutexLock lock(&session.mutex);
      session.closed = true;
    });
    while (true) {
      std::vector<WorkerMessage> messages = Step(session);
      bool written = !messages.empty();
      for (const WorkerMessage& message : messages) written = written && stream->Write(message);
      if (!written) break;
    }
    context->TryCancel();
    reader.join();
    return grpc::Status::OK;
  }

  void Take(const RouterMessage& message, struct Session& session) {
    absl::MutexLock lock(&session.mutex);
    if (message.has_submit()) {
      const worker::v1::Submit& submit = message.submit();
      {
        absl::MutexLock log_lock(&mutex);
        submits.push_back(submit);
      }
      std::vector<int32_t> tokens =
          options.tokens
              ? options.tokens(submit)
              : std::vector<int32_t>(submit.prompt_ids().begin(), submit.prompt_ids().end());
      session.sequences[submit.request_id()] = {
          .submit = submit,
          .tokens = std::move(tokens),
          .next = static_cast<size_t>(submit.committed_ids_size())};
    } else if (message.has_cancel()) {
      {
        absl::MutexLock log_lock(&mutex);
        cancels.push_back(message.cancel());
      }
      const auto found = session.sequences.find(message.cancel().request_id());
      if (found == session.sequences.end()) return;
      WorkerMessage reply;
      TokenDelta& delta = *reply.mutable_step()->add_deltas();
      delta.set_request_id(found->first);
      delta.set_epoch(found->second.submit.epoch());
      delta.set_finish(Finish::FINISH_CANCELLED);
      EndSequence(found->second, session);
      session.sequences.erase(found);
      FillReport(session, *reply.mutable_step());
      session.replies.push_back(std::move(reply));
    }
  }

  // The messages of one step; waits for work, at most until a heartbeat is due. Empty at the end.
  std::vector<WorkerMessage> Step(struct Session& session) {
    absl::MutexLock lock(&session.mutex);
    const auto ready = [&session, this]() ABSL_SHARED_LOCKS_REQUIRED(session.mutex) {
      return session.closed || !session.replies.empty() ||
             (options.token_ms == 0 && HasWork(session));
    };
    const int64_t wait_ms = options.token_ms > 0 ? std::min<int64_t>(options.token_ms, 100) : 100;
    session.mutex.AwaitWithTimeout(absl::Condition(&ready), absl::Milliseconds(wait_ms));
    if (session.closed) return {};
    std::vector<WorkerMessage> messages = std::exchange(session.replies, {});
    if (HasWork(session)) {
      WorkerMessage message;
      worker::v1::StepFrame& frame = *message.mutable_step();
      frame.set_step(++session.step);
      for (auto it = session.sequences.begin(); it != session.sequences.end();) {
        const bool ended = Held(it->second) ? false : Advance(it->second, *frame.add_deltas());
        if (ended) EndSequence(it->second, session);
        it = ended ? session.sequences.erase(it) : std::next(it);
      }
      FillReport(session, frame);
      messages.push_back(std::move(message));
    }
    worker::v1::StepFrame report;
    FillReport(session, report);
    worker::v1::Heartbeat& heartbeat = *messages.emplace_back().mutable_heartbeat();
    heartbeat.set_step(session.step);
    heartbeat.set_ready(true);
    *heartbeat.mutable_credits() = report.credits();
    *heartbeat.mutable_load() = report.load();
    return messages;
  }

  bool Held(const Sequence& sequence) const {
    return options.hold_after >= 0 && sequence.next >= static_cast<size_t>(options.hold_after);
  }

  bool HasWork(const struct Session& session) const ABSL_SHARED_LOCKS_REQUIRED(session.mutex) {
    return std::any_of(session.sequences.begin(), session.sequences.end(),
                       [this](const auto& entry) { return !Held(entry.second); });
  }

  // One token; true if it was the last.
  bool Advance(Sequence& sequence, TokenDelta& delta) const {
    delta.set_request_id(sequence.submit.request_id());
    delta.set_epoch(sequence.submit.epoch());
    delta.set_first_position(static_cast<uint32_t>(sequence.next));
    const bool first = sequence.next == static_cast<size_t>(sequence.submit.committed_ids_size());
    if (first) delta.set_prefill_ns(options.prefill_ns);
    delta.set_decode_ns(first ? 0 : 100);
    delta.set_cost_nano_usd(10);
    if (sequence.next < sequence.tokens.size()) {
      delta.add_token_ids(sequence.tokens[sequence.next++]);
      if (sequence.submit.logprobs() > 0) delta.add_logprobs()->set_logprob(-0.5F);
    }
    if (sequence.next >= sequence.tokens.size()) {
      delta.set_finish(Finish::FINISH_STOP);
    } else if (sequence.next >= static_cast<size_t>(sequence.submit.new_tokens_max())) {
      delta.set_finish(Finish::FINISH_LENGTH);
    }
    return delta.finish() != Finish::FINISH_UNSPECIFIED;
  }

  void EndSequence(const Sequence& sequence, struct Session& session) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(session.mutex) {
    ++session.sequences_ended;
    session.prefill_ended += static_cast<uint64_t>(sequence.submit.prompt_ids_size() +
                                                   sequence.submit.committed_ids_size());
  }

  void FillReport(const struct Session& session, worker::v1::StepFrame& frame) const
      ABSL_SHARED_LOCKS_REQUIRED(session.mutex) {
    frame.mutable_credits()->set_sequences(options.sequence_credits + session.sequences_ended);
    frame.mutable_credits()->set_prefill_tokens(options.prefill_credits + session.prefill_ended);
    worker::v1::Load& load = *frame.mutable_load();
    load.set_sequences_running(static_cast<int32_t>(session.sequences.size()));
    load.set_prefill_tokens_per_second(1000);
    load.set_step_ms_predicted(1);
  }

  const Options options;
  int port = 0;
  std::unique_ptr<grpc::Server> server;
  mutable absl::Mutex mutex;
  std::vector<worker::v1::Submit> submits ABSL_GUARDED_BY(mutex);
  std::vector<worker::v1::Cancel> cancels ABSL_GUARDED_BY(mutex);
};

ScriptedWorker::ScriptedWorker(Options options)
    : state_(std::make_unique<State>(std::move(options))) {}

ScriptedWorker::~ScriptedWorker() { Kill(); }

std::string ScriptedWorker::address() const { return StrCat("127.0.0.1:", state_->port); }

void ScriptedWorker::Kill() {
  state_->server->Shutdown(std::chrono::system_clock::now());
  state_->server->Wait();
}

std::vector<worker::v1::Submit> ScriptedWorker::submits() const {
  absl::MutexLock lock(&state_->mutex);
  return state_->submits;
}

std::vector<worker::v1::Cancel> ScriptedWorker::cancels() const {
  absl::MutexLock lock(&state_->mutex);
  return state_->cancels;
}

void ScriptedWorker::AwaitCancel() const {
  absl::MutexLock lock(&state_->mutex);
  const auto cancelled = [this]() ABSL_SHARED_LOCKS_REQUIRED(state_->mutex) {
    return !state_->cancels.empty();
  };
  state_->mutex.Await(absl::Condition(&cancelled));
}

}  // namespace facet::testing
