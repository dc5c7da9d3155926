// Usage records from ledgers: read, each piece of work once, and summed.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "facet/v1/usage.pb.h"

namespace facet {

// Records by key. Of two with one key the worker's counts, else the first.
class UsageRecords {
 public:
  // A ledger file, or a directory with all of its usage-*.jsonl. NOT_FOUND names the path;
  // INVALID_ARGUMENT file, line and field. A torn last line is skipped.
  Status Read(const std::string& path);

  const std::map<std::string, v1::UsageRecord>& by_key() const { return records_; }

 private:
  Status ReadFile(const std::string& path);

  std::map<std::string, v1::UsageRecord> records_;
};

struct UsageQuery {
  std::vector<std::string> by;  // See CheckUsageKeys.
  int64_t from_unix_ns = std::numeric_limits<int64_t>::min();
  int64_t to_unix_ns = std::numeric_limits<int64_t>::max();  // Not included.
};

// What the records of one group cost. Integers: sums are exact.
struct UsageSum {
  int64_t requests = 0;  // With several attempts at one, each.
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  int64_t device_ns = 0;
  int64_t nano_usd = 0;
  int64_t wasted_ns = 0;  // Part of device_ns; -1: not known by phase.
};

struct UsageReport {
  std::map<std::vector<std::string>, UsageSum> rows;  // By the values of query.by.
  UsageSum total;
};

// INVALID_ARGUMENT names the key and lists those there are: tenant, model, phase (a row each for
// prefill and decode), worker, device_class, outcome, finish, settled_by, day.
Status CheckUsageKeys(const std::vector<std::string>& by);

// Records whose end lies in [from, to).
UsageReport SumUsage(const UsageRecords& records, const UsageQuery& query);

// Rows below headings, then a total.
std::string UsageTable(const UsageReport& report, const UsageQuery& query);

// One object a line, and no total.
std::string UsageJsonLines(const UsageReport& report, const UsageQuery& query);

// "2026-11-01" (midnight, UTC) or RFC 3339. INVALID_ARGUMENT names the flag; the largest or
// smallest int64 stands for no bound and is never returned.
StatusOr<int64_t> ParseInstant(const std::string& flag, const std::string& text);

}  // namespace facet
