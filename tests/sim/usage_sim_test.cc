// Usage records between a worker that dies and a router that dies, again and again, each in the
// middle of its writes: whatever a journal held counts in the end, and once.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/file.h"
#include "cli/usage_report.h"
#include "proto/usage_record.h"
#include "router/accounting/usage_ledger.h"
#include "tests/support/fake_clock.h"
#include "tests/support/temp_directory.h"
#include "worker/service/usage_journal.h"

namespace facet {
namespace {

using router::UsageLedger;
using worker::UsageJournal;

class UsageWorld {
 public:
  explicit UsageWorld(uint32_t seed) : random_(seed) {
    StartWorker();
    StartRouter();
  }

  void Run(int events) {
    for (int i = 0; i < events; ++i) {
      clock_.AdvanceMs(1 + static_cast<int64_t>(random_() % 20'000'000));  // Days go by.
      switch (random_() % 8) {
        case 0:
          TurnJournal(/*dies=*/true);
          break;
        case 1:
          TurnLedger(/*dies=*/true);
          break;
        case 2:
        case 3:
          TurnJournal(/*dies=*/false);
          break;
        case 4:
        case 5:
          TurnLedger(/*dies=*/false);
          break;
        default:
          Settle();
      }
    }
    for (int i = 0; i < 4; ++i) {
      TurnJournal(/*dies=*/false);
      TurnLedger(/*dies=*/false);
    }
  }

  void Check() const {
    EXPECT_EQ(journal_->Stats().unconfirmed, 0u);
    UsageRecords records;
    ASSERT_TRUE(records.Read(directory_ / "ledger").ok());
    for (const auto& [id, cost] : durable_) {
      const auto found = records.by_key().find(StrCat("1/1/", id));
      ASSERT_NE(found, records.by_key().end()) << id << " was in a journal and is lost";
      EXPECT_EQ(found->second.decode_nano_usd(), cost);
    }
    EXPECT_LE(records.by_key().size(), durable_.size() + lost_.size());
    for (const auto& [key, record] : records.by_key()) {
      EXPECT_TRUE(durable_.contains(record.request_id()) || lost_.contains(record.request_id()));
    }
    EXPECT_EQ(NumLines(), records.by_key().size()) << "something was written twice";
  }

 private:
  struct FileState {
    ino_t inode = 0;
    off_t size = 0;
  };

  using Files = std::map<std::string, FileState>;

  void StartWorker() {
    ++session_;
    journal_ = std::make_unique<UsageJournal>(
        worker::UsageJournalOptions{.path = directory_ / "worker-p-0.jsonl"}, clock_,
        [this](uint64_t session, const worker::v1::WorkerMessage& message) {
          sent_.emplace_back(session, message.settled());
        });
    journal_->OnSessionOpened(session_);
  }

  void StartRouter() {
    std::filesystem::create_directory(directory_ / "ledger");
    ledger_ = std::make_unique<UsageLedger>(
        router::UsageLedgerOptions{.directory = directory_ / "ledger", .name = "r"}, clock_,
        metrics_, [this](const UsageLedger::Source& source, const std::vector<std::string>& keys) {
          worker::v1::Confirm confirm;
          confirm.mutable_keys()->Assign(keys.begin(), keys.end());
          confirms_.emplace_back(source.session, std::move(confirm));
        });
  }

  void Settle() {
    v1::UsageRecord record;
    record.set_request_id(StrCat(++num_records_));
    record.set_epoch(1);
    record.set_worker_epoch(1);
    record.set_settled_by("worker");
    record.set_decode_nano_usd(static_cast<int64_t>(random_() % 1000));
    record.set_end_unix_ns(clock_.UnixNs());
    fresh_[record.request_id()] = record.decode_nano_usd();
    journal_->Add(session_, std::move(record));
  }

  // A worker that dies in its turn has sent nothing of it: it sends after the disk has all.
  void TurnJournal(bool dies) {
    for (const auto& [session, confirm] : confirms_) {
      if (session == session_) journal_->Confirm(confirm);
    }
    confirms_.clear();
    const Files before = FilesIn(directory_.path());
    journal_->Turn();
    if (!dies) {
      durable_.insert(fresh_.begin(), fresh_.end());
      fresh_.clear();
      for (const auto& [session, settled] : std::exchange(sent_, {})) {
        ledger_->Add({settled.records().begin(), settled.records().end()},
                     {.worker = 0, .session = session});
      }
      return;
    }
    sent_.clear();
    journal_.reset();
    lost_.insert(fresh_.begin(), fresh_.end());  // Perhaps: the cut decides.
    fresh_.clear();
    CutWhatWasWritten(directory_.path(), before);
    StartWorker();
  }

  // A router that dies in its turn has confirmed nothing of it, and the session ends with it.
  void TurnLedger(bool dies) {
    const Files before = FilesIn(directory_ / "ledger");
    const size_t num_confirms = confirms_.size();
    ledger_->Turn();
    if (!dies) return;
    confirms_.resize(num_confirms);
    ledger_.reset();
    CutWhatWasWritten(directory_ / "ledger", before);
    StartRouter();
    journal_->OnSessionClosed(session_);
    journal_->OnSessionOpened(++session_);
  }

  static Files FilesIn(const std::string& path) {
    Files files;
    for (const auto& file : std::filesystem::directory_iterator(path)) {
      struct stat info {};

      if (file.path().extension() != ".jsonl" || stat(file.path().c_str(), &info) != 0) continue;
      files[file.path().string()] = {.inode = info.st_ino, .size = info.st_size};
    }
    return files;
  }

  // Any part of what an append wrote may be missing; a file that was replaced is whole.
  void CutWhatWasWritten(const std::string& path, const Files& before) {
    for (const auto& [file, state] : FilesIn(path)) {
      const auto found = before.find(file);
      const bool is_new = found == before.end();
      if (!is_new && found->second.inode != state.inode) continue;
      const off_t former = is_new ? 0 : found->second.size;
      if (state.size <= former) continue;
      const auto left = random_() % static_cast<uint64_t>(state.size - former + 1);
      std::filesystem::resize_file(file, static_cast<uintmax_t>(former) + left);
    }
  }

  size_t NumLines() const {
    size_t lines = 0;
    for (const auto& [file, state] : FilesIn(directory_ / "ledger")) {
      const std::string text = *ReadFile(file);
      lines += static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
    }
    return lines;
  }

  std::mt19937 random_;
  testing::TempDirectory directory_;
  testing::FakeClock clock_;
  MetricsPage<RouterMetrics> metrics_;
  uint64_t session_ = 0;
  int num_records_ = 0;
  std::map<std::string, int64_t> fresh_;    // Settled; not in a journal yet. Cost by request id.
  std::map<std::string, int64_t> durable_;  // A turn of the journal's has ended with them.
  std::map<std::string, int64_t> lost_;     // The worker died while it wrote them.
  std::vector<std::pair<uint64_t, worker::v1::Settled>> sent_;
  std::vector<std::pair<uint64_t, worker::v1::Confirm>> confirms_;
  std::unique_ptr<UsageJournal> journal_;
  std::unique_ptr<UsageLedger> ledger_;
};

TEST(UsageSimTest, WhatAJournalHeldCountsOnceWhoeverDies) {
  for (uint32_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    UsageWorld world(seed);
    world.Run(200);
    world.Check();
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace facet
