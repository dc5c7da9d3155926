// The way of one answer from a relay shard to its client: a bounded buffer with one producer and
// one consumer (a front's call), which writes one event at a time.
//
// While the consumer is busy writing, further text is merged into the last waiting event, so a slow
// client costs fewer messages. Its life: events pushed → ended → end taken by the consumer.
#pragma once

#include <atomic>
#include <deque>
#include <optional>
#include <variant>

#include "absl/synchronization/mutex.h"
#include "base/status.h"
#include "facet/v1/inference.pb.h"

namespace facet::router {

// An event as Chat's clients see it; Generate's front copies the fields it has.
using AnswerEvent = v1::ChatResponse;

class AnswerStream {
 public:
  static constexpr size_t kUnreadBytesMax = 256 << 10;

  virtual ~AnswerStream() = default;

  // Producer. False if the client left more than kUnreadBytesMax unread: the event is dropped and
  // the caller ends the request.
  [[nodiscard]] bool Push(AnswerEvent event);

  // Producer, once: nothing follows. An error drops what is still unread.
  void End(const Status& status);

  // Consumer. The next event, or the final status once; nullopt if there is nothing yet, and then
  // OnReadable is called when there is.
  std::optional<std::variant<AnswerEvent, Status>> Next();

  // Consumer: the client went away.
  void MarkClientGone() { client_gone_ = true; }

  bool client_gone() const { return client_gone_; }

 protected:
  // Something can be taken by Next. Called on the producer's thread without a lock.
  virtual void OnReadable() = 0;

 private:
  bool TakeIdle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::atomic<bool> client_gone_{false};
  absl::Mutex mutex_;
  std::deque<AnswerEvent> unread_ ABSL_GUARDED_BY(mutex_);
  size_t unread_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<Status> end_ ABSL_GUARDED_BY(mutex_);
  bool consumer_idle_ ABSL_GUARDED_BY(mutex_) = true;
};

}  // namespace facet::router
