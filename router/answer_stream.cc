#include "router/answer_stream.h"

#include <utility>

namespace facet::router {
namespace {

// What an event costs in memory, roughly.
size_t BytesOf(const AnswerEvent& event) {
  constexpr size_t kFixed = 64;
  return kFixed + event.ByteSizeLong();
}

void MergeText(v1::TextDelta& into, const v1::TextDelta& next) {
  if (into.token_ids_size() == 0) into.set_first_position(next.first_position());
  into.mutable_text()->append(next.text());
  into.mutable_token_ids()->MergeFrom(next.token_ids());
  into.mutable_logprobs()->MergeFrom(next.logprobs());
}

// Appends next to last if both are text of the same kind.
bool TryMerge(AnswerEvent& last, const AnswerEvent& next) {
  if (last.event_case() != next.event_case()) return false;
  if (next.has_text()) {
    MergeText(*last.mutable_text(), next.text());
  } else if (next.has_thought()) {
    MergeText(*last.mutable_thought(), next.thought());
  } else {
    return false;
  }
  return true;
}

}  // namespace

bool AnswerStream::Push(AnswerEvent event) {
  bool wake = false;
  {
    absl::MutexLock lock(&mutex_);
    const size_t bytes = BytesOf(event);
    if (end_.has_value() || unread_bytes_ + bytes > kUnreadBytesMax) return false;
    unread_bytes_ += bytes;
    if (unread_.empty() || !TryMerge(unread_.back(), event)) unread_.push_back(std::move(event));
    wake = TakeIdle();
  }
  if (wake) OnReadable();
  return true;
}

void AnswerStream::End(const Status& status) {
  bool wake = false;
  {
    absl::MutexLock lock(&mutex_);
    if (end_.has_value()) return;
    if (!status.ok()) unread_.clear();
    end_ = status;
    wake = TakeIdle();
  }
  if (wake) OnReadable();
}

std::optional<std::variant<AnswerEvent, Status>> AnswerStream::Next() {
  absl::MutexLock lock(&mutex_);
  if (!unread_.empty()) {
    AnswerEvent event = std::move(unread_.front());
    unread_.pop_front();
    if (unread_.empty()) unread_bytes_ = 0;
    return event;
  }
  if (end_.has_value()) return *end_;
  consumer_idle_ = true;
  return std::nullopt;
}

bool AnswerStream::TakeIdle() { return std::exchange(consumer_idle_, false); }

}  // namespace facet::router
