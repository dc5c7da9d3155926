#include "router/admission/tenants.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "base/file.h"
#include "proto/grpc_status.h"
#include "proto/tenants_file.h"

namespace facet::router {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string Line(const std::string& tenant, const std::string& key) {
  return "  - {name: " + tenant + ", keys: [\"" + KeyHash(key) + "\"]}\n";
}

TEST(KeyTableTest, FindsEachKeyAndNothingBesides) {
  v1::TenantsFile file;
  for (int i = 0; i < 3; ++i) {
    v1::Tenant& tenant = *file.add_tenants();
    tenant.set_name(StrCat("t", i));
    tenant.add_keys(KeyHash(StrCat("old-", i)));
    tenant.add_keys(KeyHash(StrCat("new-", i)));
  }
  const KeyTable table(file);
  EXPECT_EQ(table.size(), 6u);
  for (int i = 0; i < 3; ++i) {
    for (const char* key : {"old-", "new-"}) {
      const std::string* tenant = table.Find(StrCat(key, i));
      ASSERT_NE(tenant, nullptr);
      EXPECT_EQ(*tenant, StrCat("t", i));
    }
  }
  for (const std::string key : {"", "old-", "old-3", "old-00", "t0", KeyHash("old-0").c_str()}) {
    EXPECT_EQ(table.Find(key), nullptr) << key;
  }
}

TEST(ApiKeyTest, ComesFromEitherHeader) {
  EXPECT_EQ(ApiKeyOf("Bearer k", ""), "k");
  EXPECT_EQ(ApiKeyOf("bearer   k", "other"), "k");
  EXPECT_EQ(ApiKeyOf("", "k"), "k");
  EXPECT_EQ(ApiKeyOf("Basic dTpw", "k"), "k");
  for (const char* nothing : {"", "k", "Bearer", "Bearer ", "Bearerk", "Basic dTpw"}) {
    EXPECT_EQ(ApiKeyOf(nothing, ""), "") << nothing;
  }
}

class TenantDirectoryTest : public ::testing::Test {
 protected:
  ~TenantDirectoryTest() override { std::remove(path_.c_str()); }

  void Write(const std::string& text) { std::ofstream(path_) << text; }

  void Open() {
    auto directory = TenantDirectory::Open(path_);
    ASSERT_TRUE(directory.ok()) << MessageOf(directory.status());
    directory_ = std::move(*directory);
  }

  // The tenant, or "refused".
  std::string TenantOf(const std::string& key) const {
    const StatusOr<std::string> tenant = directory_->TenantOf(key);
    if (tenant.ok()) return *tenant;
    EXPECT_EQ(tenant.status().code(), absl::StatusCode::kUnauthenticated);
    EXPECT_EQ(ReasonOf(tenant.status()), "INVALID_API_KEY");
    if (!key.empty()) {
      EXPECT_THAT(MessageOf(tenant.status()), Not(HasSubstr(key)));
    }
    return "refused";
  }

  const std::string path_ = StrCat(::testing::TempDir(), "tenants-", getpid(), ".yaml");
  std::unique_ptr<TenantDirectory> directory_;
};

TEST_F(TenantDirectoryTest, WithoutAFileEverybodyIsDefault) {
  directory_ = std::make_unique<TenantDirectory>();
  EXPECT_EQ(TenantOf(""), "default");
  EXPECT_EQ(TenantOf("whatever"), "default");
}

TEST_F(TenantDirectoryTest, KeysAreReplacedWithoutAGap) {
  Write("tenants:\n" + Line("a", "first") + Line("b", "other"));
  Open();
  EXPECT_EQ(TenantOf("first"), "a");
  EXPECT_EQ(TenantOf("other"), "b");
  EXPECT_EQ(TenantOf("second"), "refused");
  EXPECT_EQ(TenantOf(""), "refused");
  Write("tenants:\n  - {name: a, keys: [\"" + KeyHash("first") + "\", \"" + KeyHash("second") +
        "\"]}\n" + Line("b", "other"));
  EXPECT_EQ(TenantOf("second"), "refused");
  directory_->Refresh();
  EXPECT_EQ(TenantOf("first"), "a");
  EXPECT_EQ(TenantOf("second"), "a");
  Write("tenants:\n" + Line("a", "second") + Line("b", "other"));
  directory_->Refresh();
  EXPECT_EQ(TenantOf("first"), "refused");
  EXPECT_EQ(TenantOf("second"), "a");
  EXPECT_EQ(TenantOf("other"), "b");
}

TEST_F(TenantDirectoryTest, AChangeOfEqualLengthWithinOneTickIsSeen) {
  Write("tenants:\n" + Line("a", "first"));
  Open();
  Write("tenants:\n" + Line("a", "again"));
  directory_->Refresh();
  EXPECT_EQ(TenantOf("first"), "refused");
  EXPECT_EQ(TenantOf("again"), "a");
}

TEST_F(TenantDirectoryTest, ABrokenOrMissingFileLeavesTheKeysAsTheyWere) {
  Write("tenants:\n" + Line("a", "first"));
  Open();
  for (const char* broken : {"", "tenants: [", "tenants: []", "tenants: [{name: a, keys: [x]}]"}) {
    Write(broken);
    ::testing::internal::CaptureStderr();
    directory_->Refresh();
    directory_->Refresh();
    const std::string log = ::testing::internal::GetCapturedStderr();
    EXPECT_THAT(log, HasSubstr("tenants file refused"));
    EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1) << "told once: " << log;
    EXPECT_EQ(TenantOf("first"), "a");
  }
  std::remove(path_.c_str());
  directory_->Refresh();
  EXPECT_EQ(TenantOf("first"), "a");
  Write("tenants:\n" + Line("a", "second"));
  directory_->Refresh();
  EXPECT_EQ(TenantOf("first"), "refused");
  EXPECT_EQ(TenantOf("second"), "a");
}

TEST_F(TenantDirectoryTest, ABrokenFileAtStartIsAnError) {
  EXPECT_EQ(TenantDirectory::Open(path_).status().code(), absl::StatusCode::kNotFound);
  Write("tenants: 1");
  EXPECT_THAT(MessageOf(TenantDirectory::Open(path_).status()),
              HasSubstr(":1: tenants must be a list"));
}

// The thread's own pace: a second.
TEST_F(TenantDirectoryTest, TheFileIsFollowed) {
  Write("tenants:\n" + Line("a", "first"));
  Open();
  directory_->Follow();
  Write("tenants:\n" + Line("a", "second"));
  while (!directory_->TenantOf("second").ok())
    usleep(10'000);  // The test's own time limit bounds it.
  EXPECT_EQ(TenantOf("first"), "refused");
}

}  // namespace
}  // namespace facet::router
