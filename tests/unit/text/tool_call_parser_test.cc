#include "text/tool_call_parser.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace facet {
namespace {

// Written with ` for a quote token.
ToolCallBody Body(std::string_view text) {
  ToolCallBody body;
  for (const char c : text) {
    if (c == '`') {
      body.quotes.push_back(body.text.size());
    } else {
      body.text += c;
    }
  }
  return body;
}

struct CallCase {
  const char* name;
  const char* body;
  const char* want_name;
  const char* want_arguments;
  bool want_complete = true;
};

class CallTest : public testing::TestWithParam<CallCase> {};

TEST_P(CallTest, GivesNameAndArguments) {
  const std::optional<ToolCall> call = ParseToolCall(Body(GetParam().body));
  ASSERT_TRUE(call.has_value());
  EXPECT_EQ(call->name, GetParam().want_name);
  EXPECT_EQ(call->arguments_json, GetParam().want_arguments);
  EXPECT_EQ(call->complete, GetParam().want_complete);
}

const CallCase kCallCases[] = {
    {"no_arguments", "call:f{}", "f", "{}"},
    {"all_types", "call:get_weather{city:`Paris`,days:[1,2],f:1.5,opt:{x:true,y:null,z:false}}",
     "get_weather", R"({"city":"Paris","days":[1,2],"f":1.5,"opt":{"x":true,"y":null,"z":false}})"},
    {"strings_are_raw", "call:f{code:`a{b}, \"c\":\n[d]\\n`}", "f",
     R"({"code":"a{b}, \"c\":\n[d]\\n"})"},
    {"empty_string", "call:f{a:``,b:[``,``]}", "f", R"({"a":"","b":["",""]})"},
    {"white_space", " call: f {a : 1 , b:\n[ `x` , 2 ] }\n", "f", R"({"a":1,"b":["x",2]})"},
    {"numbers_stay_as_written", "call:f{a:100000000000000000000000,b:1e+20,c:-0.50}", "f",
     R"({"a":100000000000000000000000,"b":1e+20,"c":-0.50})"},
    {"words_are_strings", "call:f{a:Paris,b:01,c:1.2.3}", "f",
     R"({"a":"Paris","b":"01","c":"1.2.3"})"},
    {"python_words", "call:f{a:None,b:True,c:False}", "f", R"({"a":null,"b":true,"c":false})"},
    {"single_quotes", "call:f{a:'it's',b:'x, y'}", "f", R"({"a":"it's","b":"x, y"})"},
    {"double_quotes", R"(call:f{"a":"x","b":["y"]})", "f", R"({"a":"x","b":["y"]})"},
    {"quoted_keys", "call:f{`a b`:1}", "f", R"({"a b":1})"},
    {"missing_value", "call:f{a:,b:}", "f", R"({"a":null,"b":null})"},
    {"trailing_comma", "call:f{a:1,}", "f", R"({"a":1})"},
    {"text_after_the_end", "call:f{a:1}}} x", "f", R"({"a":1})"},
    {"missing_brace", "call:f{a:{b:[1", "f", R"({"a":{"b":[1]}})", false},
    {"missing_last_quote", "call:f{city:`Paris}", "f", R"({"city":"Paris"})", false},
    {"missing_last_quote_in_a_list", "call:f{a:[`x`,`y]}", "f", R"({"a":["x","y"]})", false},
    {"cut_within_a_string", "call:f{city:`Par", "f", R"({"city":"Par"})", false},
    {"wrong_bracket", "call:f{a:[1},b:2", "f", R"({"a":[1]})", false},
    {"name_with_dots", "call:ns.f-1{}", "ns.f-1", "{}"},
};

INSTANTIATE_TEST_SUITE_P(Cases, CallTest, testing::ValuesIn(kCallCases), [](const auto& row) {
  return std::string(row.param.name);
});

TEST(ToolCallParserTest, GivesUpOnWhatIsNoCall) {
  for (const char* body : {"", "f{}", "call:", "call:f", "call:{}", "call:`f`{}"}) {
    EXPECT_FALSE(ParseToolCall(Body(body)).has_value()) << body;
  }
  EXPECT_FALSE(ParseToolCall(Body("call:f{a:" + std::string(100000, '['))).has_value());
}

// Every prefix and every body with one character gone must end, and give JSON if anything.
TEST(ToolCallParserTest, GivesValidJsonForDamagedBodies) {
  const std::string whole = "call:f{`k`:`v`,a:['x',\"y\",{b:1}],c:{d:[`e`]},n:-1.5e3}";
  for (size_t i = 0; i < whole.size(); ++i) {
    for (const std::string& text : {whole.substr(0, i), whole.substr(0, i) + whole.substr(i + 1),
                                    whole.substr(0, i) + '\0' + whole.substr(i)}) {
      const std::optional<ToolCall> call = ParseToolCall(Body(text));
      if (call) {
        EXPECT_TRUE(nlohmann::json::accept(call->arguments_json)) << text;
      }
    }
  }
}

}  // namespace
}  // namespace facet
