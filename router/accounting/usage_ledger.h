// The router's files of usage records, one for each UTC day: usage-<name>-YYYYMMDD.jsonl.
//
// Shards add what workers have settled; a thread of the ledger's own appends it, with one sync for
// all that came within 100 ms, and then confirms it to the worker, which keeps it until then. A
// record that comes twice is written once: the newest keys are kept, and read back from a day's
// file before the first append. What is written is never changed; readers decide by the key what
// counts (proto/facet/v1/usage.proto). While nothing can be written, serving goes on and the
// workers keep their records.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "base/batch_thread.h"
#include "base/clock.h"
#include "base/durable_file.h"
#include "base/metrics.h"
#include "facet/v1/usage.pb.h"
#include "metrics_registry.h"

namespace facet::router {

struct UsageLedgerOptions {
  std::string directory;      // Made if it is missing. Empty: nothing is written, all is confirmed.
  std::string name;           // In the files' names; one router at a time has it.
  std::string router_id;      // In the records.
  size_t keys_max = 200'000;  // Of written records, known so that none is written twice.
  size_t pending_max = 500'000;  // Not written; more are dropped, and their workers keep them.
};

class UsageLedger {
 public:
  // Who waits for a confirmation.
  struct Source {
    int worker = -1;  // Nobody.
    uint64_t session = 0;
  };

  using Confirm = std::function<void(const Source& source, const std::vector<std::string>& keys)>;

  // Everything lent must outlive the ledger. confirm is called on the ledger's thread.
  UsageLedger(UsageLedgerOptions options,
              const Clock& clock,
              MetricsPage<RouterMetrics>& metrics,
              Confirm confirm);
  ~UsageLedger();

  // Any thread; never waits for a disk.
  void Add(std::vector<v1::UsageRecord> records, const Source& source);

  // Begins the thread.
  void Start();
  // Ends it after it has tried to write what there is.
  void Stop();

  // What the thread does each time; returns whether to come again soon. For it and for tests.
  bool Turn();

 private:
  struct Pending {
    v1::UsageRecord record;
    Source source;
    int64_t taken_ns = 0;
  };

  Status Open();
  // Once, before the first append: the keys that a former life has written.
  Status ReadDay(const std::string& path);
  // Appends what is new to the file of a day; what is done goes from the group.
  Status WriteDay(const std::string& day, const std::vector<Pending*>& group);
  bool IsKnown(const v1::UsageRecord& record) const;
  void Remember(const v1::UsageRecord& record);
  void Complain(const Status& status);

  const UsageLedgerOptions options_;
  const Clock& clock_;
  MetricsPage<RouterMetrics>& metrics_;
  const Confirm confirm_;

  absl::Mutex mutex_;
  std::vector<Pending> inbox_ ABSL_GUARDED_BY(mutex_);

  // Of the thread.
  std::deque<Pending> pending_;
  std::unique_ptr<FileLock> lock_;  // Null: not open.
  std::set<std::string> files_read_;
  // Key → whether it was the worker's record, which takes the place of the router's.
  std::unordered_map<std::string, bool> known_;
  std::deque<std::string> known_keys_;  // Oldest first.
  int64_t complained_ns_ = 0;
  std::optional<BatchThread> thread_;
};

}  // namespace facet::router
