#include "worker/service/usage_journal.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/log.h"
#include "proto/usage_record.h"

namespace facet::worker {
namespace {

using facet::v1::UsageRecord;

constexpr absl::Duration kGap = absl::Milliseconds(100);  // Between two syncs.
constexpr int kRecordsPerMessage = 256;
constexpr int64_t kComplainNs = 60'000'000'000;
constexpr size_t kLinesMin = 1024;  // A file of fewer lines is not worth writing anew.

std::string ConfirmLine(const std::vector<std::string>& keys) {
  return nlohmann::json{{"confirmed", keys}}.dump() + "\n";
}

}  // namespace

UsageJournal::UsageJournal(UsageJournalOptions options, const Clock& clock, Send send)
    : options_(std::move(options)), clock_(clock), send_(std::move(send)) {}

UsageJournal::~UsageJournal() { Stop(); }

void UsageJournal::Start() {
  thread_.emplace(kGap, [this] { return Turn(); });
}

void UsageJournal::Stop() {
  if (thread_) thread_->Stop();
}

void UsageJournal::Add(uint64_t session_id, UsageRecord record) {
  {
    absl::MutexLock lock(&mutex_);
    ++stats_.unconfirmed;
    inbox_.added.push_back({.record = std::move(record), .asked_by = session_id});
  }
  if (thread_) thread_->Wake();
}

void UsageJournal::Confirm(const v1::Confirm& confirm) {
  {
    absl::MutexLock lock(&mutex_);
    inbox_.confirmed.insert(inbox_.confirmed.end(), confirm.keys().begin(), confirm.keys().end());
  }
  if (thread_) thread_->Wake();
}

void UsageJournal::OnSessionOpened(uint64_t session_id) {
  {
    absl::MutexLock lock(&mutex_);
    sessions_.insert(session_id);
  }
  if (thread_) thread_->Wake();
}

void UsageJournal::OnSessionClosed(uint64_t session_id) {
  {
    absl::MutexLock lock(&mutex_);
    sessions_.erase(session_id);
  }
  if (thread_) thread_->Wake();
}

UsageJournalStats UsageJournal::Stats() const {
  absl::MutexLock lock(&mutex_);
  return stats_;
}

bool UsageJournal::AwaitConfirmed(absl::Duration timeout) {
  const auto done = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return stats_.unconfirmed == 0 || sessions_.empty();
  };
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(&done), timeout);
}

bool UsageJournal::Turn() {
  Inbox inbox = TakeInbox();
  for (Entry& entry : inbox.added) Insert(std::move(entry));
  Status status;
  if (!options_.path.empty()) {
    if (lock_ == nullptr) status = Open();
    if (status.ok()) status = Write(inbox.confirmed);
  }
  Forget(inbox.confirmed);
  if (status.ok() && lock_ != nullptr && lines_in_file_ > kLinesMin + 4 * unconfirmed_.size()) {
    status = Compact();
  }
  if (!status.ok()) Complain(status);
  DropBeyondBound();
  Offer();
  Publish();
  return !status.ok();
}

UsageJournal::Inbox UsageJournal::TakeInbox() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(inbox_, {});
}

// Takes what a former life has left. The file is another process's as long as that lives: the
// worker that this one replaces may still be finishing its last requests.
Status UsageJournal::Open() {
  std::error_code error;  // If it cannot be made the lock says why.
  std::filesystem::create_directories(std::filesystem::path(options_.path).parent_path(), error);
  FACET_ASSIGN_OR_RETURN(std::unique_ptr<FileLock> lock, FileLock::Take(options_.path + ".lock"));
  std::map<std::string, UsageRecord> left;
  size_t unreadable = 0;
  const Status read = ForEachLine(options_.path, [&](std::string_view line) {
    const auto object = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (object.is_object() && object.contains("confirmed") && object["confirmed"].is_array()) {
      for (const auto& key : object["confirmed"]) {
        if (key.is_string()) left.erase(key.get<std::string>());
      }
      return;
    }
    StatusOr<UsageRecord> record = ParseUsageLine(line);
    if (record.ok()) {
      std::string key = UsageKey(*record);
      left[std::move(key)] = *std::move(record);
    } else {
      ++unreadable;
    }
  });
  if (!read.ok() && !absl::IsNotFound(read)) return read;
  if (unreadable > 0) {
    Log(kError, "usage journal has lines that cannot be read",
        {{"file", options_.path}, {"lines", unreadable}});
  }
  lock_ = std::move(lock);
  for (auto& [key, record] : left) {
    if (!by_key_.contains(key)) Insert({.record = std::move(record), .written = true});
  }
  if (!left.empty()) {
    Log(kInfo, "usage journal has records of a former life", {{"records", left.size()}});
  }
  return unreadable > 0 ? absl::OkStatus() : Compact();
}

// Records that are not in the file yet, and what was confirmed. A confirmation that is lost costs a
// second offer, which the router knows by its key.
Status UsageJournal::Write(const std::vector<std::string>& confirmed) {
  std::string lines;
  size_t num_lines = 0;
  for (const auto& [number, entry] : unconfirmed_) {
    if (entry.written) continue;
    lines += UsageLine(entry.record) + "\n";
    ++num_lines;
  }
  if (!confirmed.empty()) {
    lines += ConfirmLine(confirmed);
    ++num_lines;
  }
  if (lines.empty()) return absl::OkStatus();
  FACET_RETURN_IF_ERROR(AppendLines(options_.path, lines));
  for (auto& [number, entry] : unconfirmed_) entry.written = true;
  lines_in_file_ += num_lines;
  return absl::OkStatus();
}

Status UsageJournal::Compact() {
  std::string lines;
  for (const auto& [number, entry] : unconfirmed_) lines += UsageLine(entry.record) + "\n";
  FACET_RETURN_IF_ERROR(ReplaceFile(options_.path, lines));
  for (auto& [number, entry] : unconfirmed_) entry.written = true;
  lines_in_file_ = unconfirmed_.size();
  return absl::OkStatus();
}

void UsageJournal::Insert(Entry entry) {
  by_key_[UsageKey(entry.record)] = next_entry_;
  unconfirmed_.emplace(next_entry_++, std::move(entry));
}

void UsageJournal::Forget(const std::vector<std::string>& keys) {
  for (const std::string& key : keys) {
    const auto found = by_key_.find(key);
    if (found == by_key_.end()) continue;
    unconfirmed_.erase(found->second);
    by_key_.erase(found);
  }
}

void UsageJournal::DropBeyondBound() {
  while (unconfirmed_.size() > options_.unconfirmed_max) {
    by_key_.erase(UsageKey(unconfirmed_.begin()->second.record));
    unconfirmed_.erase(unconfirmed_.begin());
    ++dropped_;
  }
}

void UsageJournal::Offer() {
  std::set<uint64_t> sessions;
  {
    absl::MutexLock lock(&mutex_);
    sessions = sessions_;
  }
  if (sessions.empty()) return;
  std::map<uint64_t, size_t> offered;
  for (auto& [number, entry] : unconfirmed_) {
    if (!sessions.contains(entry.offered_to)) {
      entry.offered_to = 0;
    } else {
      ++offered[entry.offered_to];
    }
  }
  std::map<uint64_t, v1::WorkerMessage> messages;
  const auto flush = [&](uint64_t session) {
    send_(session, std::exchange(messages[session], v1::WorkerMessage()));
  };
  for (auto& [number, entry] : unconfirmed_) {
    if (entry.offered_to != 0) continue;
    const uint64_t session =
        sessions.contains(entry.asked_by) ? entry.asked_by : *sessions.rbegin();
    if (offered[session] >= options_.offered_max) continue;  // Once others are confirmed.
    ++offered[session];
    entry.offered_to = session;
    *messages[session].mutable_settled()->add_records() = entry.record;
    if (messages[session].settled().records_size() == kRecordsPerMessage) flush(session);
  }
  for (const auto& [session, message] : messages) {
    if (message.settled().records_size() > 0) send_(session, message);
  }
}

void UsageJournal::Publish() {
  int64_t oldest_unix_ns = 0;
  for (const auto& [number, entry] : unconfirmed_) {
    const int64_t end_unix_ns = entry.record.end_unix_ns();
    if (oldest_unix_ns == 0 || end_unix_ns < oldest_unix_ns) oldest_unix_ns = end_unix_ns;
  }
  absl::MutexLock lock(&mutex_);
  stats_ = {.unconfirmed = unconfirmed_.size() + inbox_.added.size(),
            .oldest_unix_ns = oldest_unix_ns,
            .dropped = dropped_};
}

void UsageJournal::Complain(const Status& status) {
  const int64_t now_ns = clock_.NowNs();
  if (complained_ns_ != 0 && now_ns - complained_ns_ < kComplainNs) return;
  complained_ns_ = now_ns;
  Log(kError, "usage journal cannot be written, its records are in memory alone",
      {{"cause", MessageOf(status)}});
}

}  // namespace facet::worker
