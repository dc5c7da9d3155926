// Records on their way from the engine to a router.
#include "worker/service/usage_journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/file.h"
#include "proto/usage_record.h"
#include "tests/support/fake_clock.h"
#include "tests/support/temp_directory.h"

namespace facet::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

facet::v1::UsageRecord Record(const std::string& id) {
  facet::v1::UsageRecord record;
  record.set_request_id(id);
  record.set_epoch(1);
  record.set_worker_epoch(7);
  record.set_settled_by("worker");
  record.set_decode_ns(123'456'789'012'345'678);
  record.set_end_unix_ns(1'800'000'000'000'000'001);
  return record;
}

class UsageJournalTest : public ::testing::Test {
 protected:
  // A life of the worker.
  struct Life {
    explicit Life(const UsageJournalOptions& options, const Clock& clock)
        : journal(options, clock, [this](uint64_t session, const v1::WorkerMessage& message) {
            for (const auto& record : message.settled().records()) {
              sent[session].push_back(record.request_id());
            }
          }) {}

    void Confirm(const std::string& id) {
      v1::Confirm confirm;
      confirm.add_keys(UsageKey(Record(id)));
      journal.Confirm(confirm);
    }

    std::map<uint64_t, std::vector<std::string>> sent;  // Request ids by session.
    UsageJournal journal;
  };

  std::unique_ptr<Life> NewLife() {
    return std::make_unique<Life>(UsageJournalOptions{.path = path_}, clock_);
  }

  testing::TempDirectory directory_;
  const std::string path_ = directory_ / "worker-p-0.jsonl";
  testing::FakeClock clock_;
};

TEST_F(UsageJournalTest, ARecordIsInTheFileBeforeItIsSentAndSentOnce) {
  auto life = NewLife();
  life->journal.OnSessionOpened(1);
  life->journal.Add(1, Record("a"));
  EXPECT_FALSE(life->journal.Turn());
  EXPECT_EQ(*ReadFile(path_), UsageLine(Record("a")) + "\n");
  life->journal.Turn();
  EXPECT_THAT(life->sent[1], ElementsAre("a"));
  EXPECT_EQ(life->journal.Stats().unconfirmed, 1u);
  EXPECT_EQ(life->journal.Stats().oldest_unix_ns, Record("a").end_unix_ns());
  life->Confirm("a");
  life->journal.Turn();
  EXPECT_EQ(life->journal.Stats().unconfirmed, 0u);
  EXPECT_EQ(life->journal.Stats().oldest_unix_ns, 0);
}

TEST_F(UsageJournalTest, WhatIsNotConfirmedIsOfferedByTheNextLife) {
  auto life = NewLife();
  life->journal.OnSessionOpened(1);
  for (const char* id : {"a", "b", "c"}) life->journal.Add(1, Record(id));
  life->journal.Turn();
  life->Confirm("b");
  life->journal.Turn();
  life.reset();
  std::ofstream(path_, std::ios::app) << R"({"request_id":"torn","epo)";
  life = NewLife();
  life->journal.OnSessionOpened(9);
  life->journal.Turn();
  EXPECT_THAT(life->sent[9], ElementsAre("a", "c"));
  EXPECT_EQ(*ReadFile(path_), UsageLine(Record("a")) + "\n" + UsageLine(Record("c")) + "\n")
      << "confirmed and torn lines are gone";
}

TEST_F(UsageJournalTest, ARecordGoesToWhoAskedOrElseToAnother) {
  auto life = NewLife();
  life->journal.OnSessionOpened(1);
  life->journal.OnSessionOpened(2);
  life->journal.Add(1, Record("a"));
  life->journal.Turn();
  EXPECT_THAT(life->sent[2], IsEmpty());
  life->journal.OnSessionClosed(1);
  life->journal.Turn();
  EXPECT_THAT(life->sent[2], ElementsAre("a"));
}

TEST_F(UsageJournalTest, ASessionIsOfferedABoundedNumber) {
  Life life({.offered_max = 3}, clock_);
  life.journal.OnSessionOpened(1);
  for (int i = 0; i < 5; ++i) life.journal.Add(1, Record(StrCat(i)));
  life.journal.Turn();
  EXPECT_THAT(life.sent[1], SizeIs(3));
  life.Confirm("0");
  life.Confirm("1");
  life.journal.Turn();
  EXPECT_THAT(life.sent[1], SizeIs(5));
}

TEST_F(UsageJournalTest, BeyondTheBoundTheOldestIsDroppedAndCounted) {
  Life life({.unconfirmed_max = 2}, clock_);
  for (const char* id : {"a", "b", "c"}) life.journal.Add(1, Record(id));
  life.journal.Turn();
  EXPECT_EQ(life.journal.Stats().dropped, 1);
  life.journal.OnSessionOpened(1);
  life.journal.Turn();
  EXPECT_THAT(life.sent[1], ElementsAre("b", "c"));
}

TEST_F(UsageJournalTest, AFileOfMostlyConfirmedRecordsIsWrittenAnew) {
  auto life = NewLife();
  life->journal.OnSessionOpened(1);
  life->journal.Add(1, Record("stays"));
  for (int i = 0; i < 2000; ++i) {
    life->journal.Add(1, Record(StrCat(i)));
    life->Confirm(StrCat(i));
  }
  life->journal.Turn();
  EXPECT_EQ(*ReadFile(path_), UsageLine(Record("stays")) + "\n");
}

TEST_F(UsageJournalTest, WithoutADirectoryRecordsStillFlowAndAreWrittenOnceThereIsOne) {
  ASSERT_TRUE(ReplaceFile(directory_ / "later", "a file").ok());
  Life life({.path = directory_ / "later/worker-p-0.jsonl"}, clock_);
  life.journal.OnSessionOpened(1);
  life.journal.Add(1, Record("a"));
  EXPECT_TRUE(life.journal.Turn()) << "it will try again";
  EXPECT_THAT(life.sent[1], ElementsAre("a"));
  std::filesystem::remove(directory_ / "later");
  EXPECT_FALSE(life.journal.Turn());
  EXPECT_EQ(*ReadFile(directory_ / "later/worker-p-0.jsonl"), UsageLine(Record("a")) + "\n");
}

TEST_F(UsageJournalTest, TwoLivesAtOnceDoNotShareTheFile) {
  auto old = NewLife();
  old->journal.Add(1, Record("a"));
  EXPECT_FALSE(old->journal.Turn());
  auto fresh = NewLife();
  EXPECT_TRUE(fresh->journal.Turn()) << "the old one still writes";
  old.reset();
  fresh->journal.OnSessionOpened(1);
  EXPECT_FALSE(fresh->journal.Turn());
  EXPECT_THAT(fresh->sent[1], ElementsAre("a"));
}

}  // namespace
}  // namespace facet::worker
