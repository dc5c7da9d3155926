#include "proto/tenants_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace facet {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// FIPS 180-2, appendix B.1: the digest of "abc".
const std::string kAbcHash =
    "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

TEST(TenantsFileTest, AHashIsTheDigestOfTheWholeKey) { EXPECT_EQ(KeyHash("abc"), kAbcHash); }

TEST(TenantsFileTest, TenantsHaveNoneOneOrSeveralKeys) {
  const auto file = ParseTenants("tenants:\n  - {name: a, keys: [\"" + kAbcHash + "\", \"" +
                                     KeyHash("b") + "\"]}\n  - {name: team/b}\n",
                                 "t.yaml");
  ASSERT_TRUE(file.ok()) << MessageOf(file.status());
  ASSERT_EQ(file->tenants_size(), 2);
  EXPECT_EQ(file->tenants(0).keys_size(), 2);
  EXPECT_EQ(file->tenants(1).name(), "team/b");
}

struct BadTenants {
  std::string name;
  std::string yaml;
  std::string message;
};

class TenantsFileBadTest : public ::testing::TestWithParam<BadTenants> {};

TEST_P(TenantsFileBadTest, IsRefusedWithFieldLineAndWhy) {
  const auto file = ParseTenants(GetParam().yaml, "t.yaml");
  ASSERT_FALSE(file.ok());
  EXPECT_THAT(MessageOf(file.status()), HasSubstr(GetParam().message));
}

const BadTenants kBadTenants[] = {
    {"empty", "", "t.yaml: the file is empty"},
    {"nobody", "tenants: []", "t.yaml: tenants is empty"},
    {"unknown_field", "tenants:\n  - name: a\n    key: b",
     "t.yaml:3: tenants[0].key is not known; known here: name, keys"},
    {"name_missing", "tenants:\n  - keys: []", "tenants[0].name is \"\"; it must be 1 to 128"},
    {"name_for_metrics", "tenants:\n  - name: \"a b\"",
     "t.yaml:2: tenants[0].name is \"a b\"; it must be"},
    {"name_twice", "tenants:\n  - name: a\n  - name: a",
     "t.yaml:3: tenants[1].name is \"a\", which stands twice"},
    {"key_twice",
     "tenants:\n  - {name: a, keys: [" + kAbcHash + "]}\n  - {name: b, keys: [" + kAbcHash + "]}",
     "t.yaml:3: tenants[1].keys[0] stands twice"},
    {"short_hash", "tenants:\n  - name: a\n    keys:\n      - sha256:12",
     "t.yaml:4: tenants[0].keys[0] is no hash; it must be sha256: and 64"},
};

INSTANTIATE_TEST_SUITE_P(All,
                         TenantsFileBadTest,
                         ::testing::ValuesIn(kBadTenants),
                         [](const auto& row) { return row.param.name; });

TEST(TenantsFileTest, AKeyInTheHashesPlaceIsNotShown) {
  const auto file = ParseTenants("tenants:\n  - {name: a, keys: [fk_secret]}", "t.yaml");
  EXPECT_THAT(MessageOf(file.status()),
              AllOf(HasSubstr("t.yaml:2: tenants[0].keys[0]"), Not(HasSubstr("secret"))));
}

}  // namespace
}  // namespace facet
