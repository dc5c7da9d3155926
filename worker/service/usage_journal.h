// Settled records on their way from the engine to a router's ledger.
//
//   Add → (appended to the journal) → offered to a session → Confirm → gone
//
// The engine adds and never waits; a thread of the journal's own writes and sends, so that a record
// is on the disk before a router sees it, with one sync for all that came within 100 ms. A record
// is offered to the session that asked for the work, or if that is over to any other, until a
// router has confirmed it. The next life of the worker offers what is left in the file. Without a
// file, or while it cannot be written, records live in memory alone and go the same way.
//
// The file has one line for each record (proto/usage_record.h) and lines {"confirmed": [key, ...]};
// it is written anew when most of it is confirmed.
#pragma once

#include <cstdint>
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
#include "facet/v1/usage.pb.h"
#include "facet/worker/v1/worker.pb.h"

namespace facet::worker {

struct UsageJournalOptions {
  std::string path;                  // Empty: no file.
  size_t unconfirmed_max = 100'000;  // More are dropped, the oldest first.
  size_t offered_max = 4096;         // Of one session, not confirmed.
};

struct UsageJournalStats {
  size_t unconfirmed = 0;
  int64_t oldest_unix_ns = 0;  // End of the oldest record that is not confirmed; 0: none.
  int64_t dropped = 0;
};

class UsageJournal {
 public:
  using Send = std::function<void(uint64_t session_id, v1::WorkerMessage message)>;

  // send is called on the journal's thread.
  UsageJournal(UsageJournalOptions options, const Clock& clock, Send send);
  ~UsageJournal();

  // Any thread; none of these waits for a disk.
  void Add(uint64_t session_id, facet::v1::UsageRecord record);
  void Confirm(const v1::Confirm& confirm);
  void OnSessionOpened(uint64_t session_id);
  void OnSessionClosed(uint64_t session_id);
  UsageJournalStats Stats() const;

  // Begins the thread.
  void Start();
  // Ends it after it has written what there is.
  void Stop();
  // True once everything is confirmed or nobody is there who could; false if that takes longer.
  bool AwaitConfirmed(absl::Duration timeout);

  // What the thread does each time: opens the file if it must, writes, offers, forgets. Returns
  // whether to come again soon without a reason from outside. For the thread and for tests.
  bool Turn();

 private:
  struct Entry {
    facet::v1::UsageRecord record;
    uint64_t asked_by = 0;    // Session; 0: of a former life.
    uint64_t offered_to = 0;  // 0: nobody.
    bool written = false;
  };

  // What came from other threads since the last turn.
  struct Inbox {
    std::vector<Entry> added;
    std::vector<std::string> confirmed;
  };

  Inbox TakeInbox();
  Status Open();
  Status Write(const std::vector<std::string>& confirmed);
  Status Compact();
  void Insert(Entry entry);
  void Forget(const std::vector<std::string>& keys);
  void DropBeyondBound();
  void Offer();
  void Publish();
  void Complain(const Status& status);

  const UsageJournalOptions options_;
  const Clock& clock_;
  const Send send_;

  mutable absl::Mutex mutex_;
  Inbox inbox_ ABSL_GUARDED_BY(mutex_);
  std::set<uint64_t> sessions_ ABSL_GUARDED_BY(mutex_);
  UsageJournalStats stats_ ABSL_GUARDED_BY(mutex_);

  // Of the thread.
  std::map<uint64_t, Entry> unconfirmed_;  // In the order in which they came.
  std::unordered_map<std::string, uint64_t> by_key_;
  uint64_t next_entry_ = 1;
  std::unique_ptr<FileLock> lock_;  // Null: the file is not open.
  size_t lines_in_file_ = 0;
  int64_t dropped_ = 0;
  int64_t complained_ns_ = 0;
  std::optional<BatchThread> thread_;
};

}  // namespace facet::worker
