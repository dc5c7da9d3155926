// Drives an engine without threads or network: submit requests, step until they end, read tokens.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "worker/engine/engine.h"

namespace facet::test {

// What a request got.
struct Answer {
  std::vector<int32_t> tokens;
  std::vector<worker::RowResult> logprobs;
  worker::FinishReason finish = worker::FinishReason::kNone;
  Status refused;
  int64_t prefill_ns = 0;
  int64_t decode_ns = 0;
  int64_t cost_nano_usd = 0;
};

class EngineDriver final : public worker::EngineSink {
 public:
  static constexpr uint64_t kSession = 1;

  EngineDriver(const worker::EngineOptions& options,
               worker::Executor& executor,
               const Clock& clock = Clock::Real())
      : engine_(options, executor, *this, clock) {
    engine_.OpenSession(kSession);
  }

  worker::Engine& engine() { return engine_; }

  void Submit(worker::SequenceRequest request) {
    request.session_id = kSession;
    const std::string id = request.request_id;
    answers_[id] = Answer{};
    const Status status = engine_.AddRequest(std::move(request));
    if (!status.ok()) answers_[id].refused = status;
  }

  // Steps until there is nothing left to do; false if that takes more than steps_max.
  bool RunAll(int steps_max = 1'000'000) {
    for (int i = 0; i < steps_max; ++i) {
      if (!engine_.Step()) return true;
    }
    return false;
  }

  const Answer& answer(const std::string& id) const { return answers_.at(id); }

  const std::vector<worker::StepFrame>& frames() const { return frames_; }

  void OnStepFrame(worker::StepFrame frame) override {
    for (const worker::TokenDelta& delta : frame.deltas) {
      Answer& answer = answers_[delta.request_id];
      FACET_CHECK_EQ(delta.first_position, static_cast<int32_t>(answer.tokens.size()));
      answer.tokens.insert(answer.tokens.end(), delta.token_ids.begin(), delta.token_ids.end());
      answer.logprobs.insert(answer.logprobs.end(), delta.logprobs.begin(), delta.logprobs.end());
      if (delta.finish != worker::FinishReason::kNone) {
        FACET_CHECK(answer.finish == worker::FinishReason::kNone) << "finished twice";
        answer.finish = delta.finish;
      }
      answer.prefill_ns += delta.prefill_ns;
      answer.decode_ns += delta.decode_ns;
      answer.cost_nano_usd += delta.cost_nano_usd;
    }
    frames_.push_back(std::move(frame));
  }

  void OnRefusal(worker::Refusal refusal) override {
    answers_[refusal.request_id].refused = refusal.status;
  }

  void OnSettled(worker::SettledAccount account) override {
    settled_.push_back(std::move(account));
  }

  void OnLost(const Status& cause) override { lost_.push_back(cause); }

  const std::vector<worker::SettledAccount>& settled() const { return settled_; }

  const std::vector<Status>& lost() const { return lost_; }

 private:
  std::map<std::string, Answer> answers_;
  std::vector<worker::StepFrame> frames_;
  std::vector<worker::SettledAccount> settled_;
  std::vector<Status> lost_;
  worker::Engine engine_;
};

}  // namespace facet::test
