#include "cli/keys_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "proto/tenants_file.h"

namespace facet {
namespace {

using ::testing::HasSubstr;

struct Printed {
  std::string key;
  std::string yaml;
};

Printed NewKey(const std::string& tenant) {
  std::ostringstream out;
  const Status status = WriteNewKey(tenant, out);
  EXPECT_TRUE(status.ok()) << MessageOf(status);
  std::istringstream lines(out.str());
  std::string title;
  Printed printed;
  std::getline(lines, title);
  lines >> printed.key >> std::ws;
  std::getline(lines, title);
  std::getline(lines, printed.yaml);
  return printed;
}

TEST(KeysCommandTest, TheLineLetsTheKeyIn) {
  const Printed printed = NewKey("acme");
  const auto file = ParseTenants("tenants:\n" + printed.yaml, "t.yaml");
  ASSERT_TRUE(file.ok()) << MessageOf(file.status());
  EXPECT_EQ(file->tenants(0).name(), "acme");
  EXPECT_EQ(file->tenants(0).keys(0), KeyHash(printed.key));
  EXPECT_EQ(printed.key.size(), 3u + 64u) << "256 bits in hexadecimal";
}

TEST(KeysCommandTest, NoTwoKeysAreEqual) { EXPECT_NE(NewKey("a").key, NewKey("a").key); }

TEST(KeysCommandTest, ANameThatCannotBeATenantsIsRefused) {
  std::ostringstream out;
  EXPECT_THAT(MessageOf(WriteNewKey("a b", out)), HasSubstr("--tenant is \"a b\""));
  EXPECT_EQ(out.str(), "");
}

}  // namespace
}  // namespace facet
