#include "router/accounting/open_accounts.h"

#include "base/check.h"

namespace facet::router {
namespace {

using worker::v1::Finish;
using worker::v1::TokenDelta;

// More than end between an answer and its settlement, which takes some 200 ms.
constexpr size_t kEndedMax = 4096;

const char* NameOf(Finish finish) {
  switch (finish) {
    case Finish::FINISH_STOP:
      return "stop";
    case Finish::FINISH_LENGTH:
      return "length";
    case Finish::FINISH_CANCELLED:
      return "cancelled";
    case Finish::FINISH_DEADLINE:
      return "deadline";
    default:
      return "error";
  }
}

}  // namespace

void OpenAccounts::Open(int worker, uint64_t session, v1::UsageRecord record) {
  const auto key = std::make_pair(record.request_id(), record.epoch());
  open_[key] = {.worker = worker, .session = session, .record = std::move(record)};
}

void OpenAccounts::Charge(const TokenDelta& delta, int64_t now_unix_ns) {
  const auto found = open_.find({delta.request_id(), delta.epoch()});
  if (found == open_.end()) return;
  v1::UsageRecord& record = found->second.record;
  record.set_prefill_ns(record.prefill_ns() + delta.prefill_ns());
  record.set_decode_ns(record.decode_ns() + delta.decode_ns());
  // A step computes a chunk of a sequence's prompt or its next token, never both.
  if (delta.decode_ns() == 0) {
    record.set_prefill_nano_usd(record.prefill_nano_usd() + delta.cost_nano_usd());
  } else {
    record.set_decode_nano_usd(record.decode_nano_usd() + delta.cost_nano_usd());
  }
  record.set_end_unix_ns(now_unix_ns);
  if (delta.finish() != Finish::FINISH_UNSPECIFIED) record.set_finish(NameOf(delta.finish()));
  if (delta.token_ids_size() == 0) return;
  record.set_output_tokens(record.output_tokens() + delta.token_ids_size());
  if (record.first_token_unix_ns() == 0) record.set_first_token_unix_ns(now_unix_ns);
  record.set_last_token_unix_ns(now_unix_ns);
}

void OpenAccounts::End(const std::string& request_id, EndedRequest ended) {
  ended_[request_id] = std::move(ended);
  ended_ids_.push_back(request_id);
  if (ended_ids_.size() <= kEndedMax) return;
  const std::string& oldest = ended_ids_.front();
  open_.erase(open_.lower_bound({oldest, 0}), open_.upper_bound({oldest, UINT32_MAX}));
  ended_.erase(oldest);
  ended_ids_.pop_front();
}

const EndedRequest* OpenAccounts::FindEnded(const std::string& request_id) const {
  const auto found = ended_.find(request_id);
  return found == ended_.end() ? nullptr : &found->second;
}

void OpenAccounts::Settle(v1::UsageRecord& record) {
  AddOutcome(record);
  Drop(record.request_id(), record.epoch());
}

std::vector<v1::UsageRecord> OpenAccounts::TakeLost(int worker,
                                                    uint64_t session,
                                                    int64_t now_unix_ns) {
  std::vector<v1::UsageRecord> records;
  for (auto it = open_.begin(); it != open_.end();) {
    Account& account = it->second;
    if (account.worker != worker || account.session != session) {
      ++it;
      continue;
    }
    v1::UsageRecord& record = account.record;
    record.set_settled_by("router");
    if (record.finish().empty()) record.set_finish("lost");
    if (record.end_unix_ns() == 0) record.set_end_unix_ns(now_unix_ns);
    AddOutcome(record);
    records.push_back(std::move(record));
    it = open_.erase(it);
  }
  return records;
}

void OpenAccounts::AddOutcome(v1::UsageRecord& record) const {
  const EndedRequest* ended = FindEnded(record.request_id());
  if (ended != nullptr && ended->epoch == record.epoch()) record.set_outcome(ended->outcome);
}

}  // namespace facet::router
