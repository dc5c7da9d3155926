// What attempts at requests were charged, from their dispatch until their workers settle them. A
// relay shard owns one; its thread alone calls.
//
// A worker that dies settles nothing any more: its open accounts then become records of the
// router's own.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "facet/v1/usage.pb.h"
#include "facet/worker/v1/worker.pb.h"

namespace facet::router {

// An answer that has been given, or refused.
struct EndedRequest {
  std::string model;
  std::string tenant;
  int64_t prompt_tokens = 0;
  uint32_t epoch = 0;   // Of the attempt that gave it.
  std::string outcome;  // gRPC code.
};

class OpenAccounts {
 public:
  // The attempt was sent to a worker; record has what is known of it so far.
  void Open(int worker, uint64_t session, v1::UsageRecord record);

  // A delta came, for a request that lives or one that has ended.
  void Charge(const worker::v1::TokenDelta& delta, int64_t now_unix_ns);

  // The worker refused the attempt: it costs nothing.
  void Drop(const std::string& request_id, uint32_t epoch) { open_.erase({request_id, epoch}); }

  // The newest few thousand are remembered.
  void End(const std::string& request_id, EndedRequest ended);

  // Null if it has not ended, or too long ago.
  const EndedRequest* FindEnded(const std::string& request_id) const;

  // The worker has settled an attempt: completes its record and closes the account.
  void Settle(v1::UsageRecord& record);

  // The session is over: its accounts, as records settled by the router.
  std::vector<v1::UsageRecord> TakeLost(int worker, uint64_t session, int64_t now_unix_ns);

  size_t num_open() const { return open_.size(); }

 private:
  struct Account {
    int worker = 0;
    uint64_t session = 0;
    v1::UsageRecord record;
  };

  void AddOutcome(v1::UsageRecord& record) const;

  std::map<std::pair<std::string, uint32_t>, Account> open_;  // By request id and epoch.
  std::unordered_map<std::string, EndedRequest> ended_;
  std::deque<std::string> ended_ids_;  // Oldest first.
};

}  // namespace facet::router
