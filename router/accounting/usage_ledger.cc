#include "router/accounting/usage_ledger.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/time/time.h"
#include "base/log.h"
#include "proto/usage_record.h"

namespace facet::router {
namespace {

using v1::UsageRecord;

constexpr absl::Duration kGap = absl::Milliseconds(100);  // Between two syncs.
constexpr int64_t kComplainNs = 60'000'000'000;

std::string DayOf(const UsageRecord& record) {
  return absl::FormatTime("%Y%m%d", absl::FromUnixNanos(record.end_unix_ns()), absl::UTCTimeZone());
}

bool ByWorker(const UsageRecord& record) { return record.settled_by() == "worker"; }

}  // namespace

UsageLedger::UsageLedger(UsageLedgerOptions options,
                         const Clock& clock,
                         MetricsPage<RouterMetrics>& metrics,
                         Confirm confirm)
    : options_(std::move(options)), clock_(clock), metrics_(metrics), confirm_(std::move(confirm)) {
  metrics_.Write()->usage_lag.At().Set(0);
}

UsageLedger::~UsageLedger() { Stop(); }

void UsageLedger::Start() {
  thread_.emplace(kGap, [this] { return Turn(); });
}

void UsageLedger::Stop() {
  if (thread_) thread_->Stop();
}

void UsageLedger::Add(std::vector<UsageRecord> records, const Source& source) {
  const int64_t now_ns = clock_.NowNs();
  {
    absl::MutexLock lock(&mutex_);
    for (UsageRecord& record : records) {
      inbox_.push_back({.record = std::move(record), .source = source, .taken_ns = now_ns});
    }
  }
  if (thread_) thread_->Wake();
}

bool UsageLedger::Turn() {
  {
    absl::MutexLock lock(&mutex_);
    for (Pending& pending : std::exchange(inbox_, {})) {
      if (pending_.size() < options_.pending_max) pending_.push_back(std::move(pending));
    }
  }
  Status status;
  if (!options_.directory.empty() && lock_ == nullptr) status = Open();
  std::map<std::string, std::vector<Pending*>> days;
  for (Pending& pending : pending_) days[DayOf(pending.record)].push_back(&pending);
  std::map<std::pair<int, uint64_t>, std::vector<std::string>> confirmed;
  for (const auto& [day, group] : days) {
    if (status.ok()) status = WriteDay(day, group);
    if (!status.ok()) break;
    for (Pending* pending : group) {
      const Source& source = pending->source;
      if (source.worker >= 0) {
        confirmed[{source.worker, source.session}].push_back(UsageKey(pending->record));
      }
      pending->taken_ns = 0;  // Done.
    }
  }
  std::erase_if(pending_, [](const Pending& pending) { return pending.taken_ns == 0; });
  for (const auto& [source, keys] : confirmed) {
    confirm_({.worker = source.first, .session = source.second}, keys);
  }
  const int64_t lag_ns = pending_.empty() ? 0 : clock_.NowNs() - pending_.front().taken_ns;
  metrics_.Write()->usage_lag.At().Set(static_cast<double>(lag_ns) / 1e9);
  if (!status.ok()) Complain(status);
  return !status.ok();
}

// Another process may have the name for a while: the router that this one replaces.
Status UsageLedger::Open() {
  std::error_code error;
  std::filesystem::create_directories(options_.directory, error);
  FACET_ASSIGN_OR_RETURN(
      std::unique_ptr<FileLock> lock,
      FileLock::Take(StrCat(options_.directory, "/usage-", options_.name, ".lock")));
  lock_ = std::move(lock);
  return absl::OkStatus();
}

// A record that is offered again has the day that it had: only that file can hold it.
Status UsageLedger::ReadDay(const std::string& path) {
  if (files_read_.contains(path)) return absl::OkStatus();
  const Status read = ForEachLine(path, [this](std::string_view line) {
    const StatusOr<UsageRecord> record = ParseUsageLine(line);
    if (record.ok()) Remember(*record);
  });
  if (!read.ok() && !absl::IsNotFound(read)) return read;
  files_read_.insert(path);
  return absl::OkStatus();
}

Status UsageLedger::WriteDay(const std::string& day, const std::vector<Pending*>& group) {
  const std::string path = StrCat(options_.directory, "/usage-", options_.name, "-", day, ".jsonl");
  if (!options_.directory.empty()) FACET_RETURN_IF_ERROR(ReadDay(path));
  std::unordered_map<std::string, const UsageRecord*> fresh;  // Those of the worker prevail.
  for (Pending* pending : group) {
    UsageRecord& record = pending->record;
    record.set_router_id(options_.router_id);
    if (IsKnown(record)) continue;
    const UsageRecord*& chosen = fresh[UsageKey(record)];
    if (chosen == nullptr || ByWorker(record)) chosen = &record;
  }
  if (fresh.empty()) return absl::OkStatus();
  std::string lines;
  for (const Pending* pending : group) {  // In the order in which they came.
    const auto chosen = fresh.find(UsageKey(pending->record));
    if (chosen != fresh.end() && chosen->second == &pending->record) {
      lines += UsageLine(pending->record) + "\n";
    }
  }
  if (!options_.directory.empty()) FACET_RETURN_IF_ERROR(AppendLines(path, lines));
  auto metrics = metrics_.Write();
  for (const auto& [key, record] : fresh) {
    Remember(*record);
    metrics->usage_records.At(ByWorker(*record) ? "worker" : "router").Add(1);
  }
  return absl::OkStatus();
}

bool UsageLedger::IsKnown(const UsageRecord& record) const {
  const auto found = known_.find(UsageKey(record));
  return found != known_.end() && (found->second || !ByWorker(record));
}

void UsageLedger::Remember(const UsageRecord& record) {
  const std::string key = UsageKey(record);
  const auto [it, is_new] = known_.try_emplace(key, ByWorker(record));
  it->second = it->second || ByWorker(record);
  if (!is_new) return;
  known_keys_.push_back(key);
  if (known_keys_.size() <= options_.keys_max) return;
  known_.erase(known_keys_.front());
  known_keys_.pop_front();
}

void UsageLedger::Complain(const Status& status) {
  const int64_t now_ns = clock_.NowNs();
  if (complained_ns_ != 0 && now_ns - complained_ns_ < kComplainNs) return;
  complained_ns_ = now_ns;
  Log(kError, "usage ledger cannot be written, workers keep their records",
      {{"cause", MessageOf(status)}, {"records", pending_.size()}});
}

}  // namespace facet::router
