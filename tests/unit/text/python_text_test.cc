#include "text/python_text.h"

#include <gtest/gtest.h>

namespace facet {
namespace {

struct StrCase {
  const char* json;
  const char* want;
};

// The right column was printed by Python 3.11.
TEST(PythonTextTest, PrintsValuesAsPythonDoes) {
  static const StrCase kCases[] = {
      {"1e20", "1e+20"},
      {"1e-7", "1e-07"},
      {"3.0", "3.0"},
      {"-2.25", "-2.25"},
      {"0.0001", "0.0001"},
      {"0.00001", "1e-05"},
      {"1e15", "1000000000000000.0"},
      {"1e16", "1e+16"},
      {"123456.789", "123456.789"},
      {"1.7976931348623157e308", "1.7976931348623157e+308"},
      {"5e-324", "5e-324"},
      {"-0.0", "-0.0"},
      {"0.0", "0.0"},
      {"100.0", "100.0"},
      {"286178903461", "286178903461"},
      {"18446744073709551615", "18446744073709551615"},
      {"true", "True"},
      {"null", "None"},
      {"\"a'b\"", "a'b"},
      {R"(["a'b", "c\"d'", 1.0, null, {"k": "v\n"}])",
       R"(["a'b", 'c"d\'', 1.0, None, {'k': 'v\n'}])"},
  };
  for (const StrCase& row : kCases) {
    EXPECT_EQ(PythonStr(OrderedJson::parse(row.json)), row.want) << row.json;
  }
}

TEST(PythonTextTest, TrimsUnicodeWhiteSpace) {
  EXPECT_EQ(PythonTrim("\u3000\t a\u00A0b \u2028\x1C"), "a\u00A0b");
  EXPECT_EQ(PythonTrim(" \n\u0085"), "");
  EXPECT_EQ(PythonTrim("\u200Ba"), "\u200Ba");
}

TEST(PythonTextTest, LowersLettersOfSeveralScripts) {
  EXPECT_EQ(PythonLower("ABC ÄÖ×Ł ŽŸ ΆΣΩ ЁЖ Ա 中_9"), "abc äö×ł žÿ άσω ёж ա 中_9");
}

}  // namespace
}  // namespace facet
