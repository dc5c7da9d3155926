// Damaged input for every parser of text/: tokenizer files, texts, client JSON, generated ids.
//
//   text_fuzz [SEED [ROUNDS]]
//
// Each round takes good input, damages it at random and feeds it in. Nothing may crash or hang, an
// error must be InvalidArgument, and what is accepted must keep its promises. A failed check names
// its round, which runs alone as SEED with ROUNDS 1.
#include <nlohmann/json.hpp>
#include <string>

#include "base/check.h"
#include "tests/fuzz/rounds.h"
#include "tests/support/small_tokenizer.h"
#include "text/chat_template.h"
#include "text/output_protocol.h"
#include "text/stop_matcher.h"
#include "text/utf8.h"

namespace facet {
namespace {

bool IsUtf8(std::string_view text) {
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    if (step.kind != Utf8Step::Kind::kCharacter) return false;
    text.remove_prefix(step.length);
  }
  return true;
}

void FuzzTokenizerFile(Random& random) {
  static const std::string* const kFile = new std::string(SmallTokenizerJson().dump());
  const StatusOr<Tokenizer> tokenizer = Tokenizer::Parse(Damage(*kFile, random));
  FACET_CHECK(IsOkOrInvalid(tokenizer)) << MessageOf(tokenizer.status());
  if (tokenizer.ok()) {
    const auto ids = tokenizer->Encode("thought <|turn>the 中\n\n");
    FACET_CHECK(ids.ok());
    for (const int32_t id : *ids) FACET_CHECK(id >= 0 && id < tokenizer->vocab_size());
  }
}

void FuzzEncode(const Tokenizer& tokenizer, Random& random) {
  static constexpr char kText[] = "thought the ther<|turn>user\n  🙂 中é <|\"|>é<|tool_call>";
  const std::string text = Damage(std::string(kText) + kText, random);
  const StatusOr<std::vector<int32_t>> ids = tokenizer.Encode(text);
  FACET_CHECK_EQ(ids.ok(), IsUtf8(text));
  if (ids.ok() && text.find("\u2581") == std::string::npos) {
    FACET_CHECK(tokenizer.Decode(*ids) == text) << text;
  }
}

void FuzzConversation(Random& random) {
  static constexpr char kJson[] =
      R"({"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image"}]},
      {"role":"assistant","reasoning":"r","tool_calls":[{"id":"1","function":{"name":"f",
      "arguments":{"a":[1,2.5,null,true,{"b":"c"}]}}}]},{"role":"tool","tool_call_id":"1",
      "content":"x"}],"tools":[{"type":"function","function":{"name":"f","description":"d",
      "parameters":{"type":"object","properties":{"a":{"type":"array","items":{"type":"object",
      "properties":{"b":{"type":["string","null"],"enum":["c"]}},"required":["b"]}},"o":{"type":
      "object","nullable":true}},"required":["a"]},"response":{"type":"object"}}}],
      "enable_thinking":true})";
  const StatusOr<Conversation> conversation = ParseConversationJson(Damage(kJson, random));
  FACET_CHECK(IsOkOrInvalid(conversation)) << MessageOf(conversation.status());
  if (!conversation.ok()) return;
  const StatusOr<std::string> prompt = RenderChat(*conversation, TemplateVariant::kLarge);
  FACET_CHECK(IsOkOrInvalid(prompt)) << MessageOf(prompt.status());
  FACET_CHECK(!prompt.ok() || IsUtf8(*prompt));
}

void FuzzOutput(const Tokenizer& tokenizer, Random& random) {
  static const std::vector<int32_t>* const kIds = new std::vector<int32_t>(
      tokenizer
          .Encode("<|channel>thought\nhm\n<channel|>so<|tool_call>call:f{a:<|\"|>x<|\"|>,b:[1,'y',"
                  "{c:null}],d:2}<tool_call|><|tool_response>")
          .value());
  std::vector<int32_t> ids = *kIds;
  for (size_t n = Below(random, 8); n > 0; --n) {
    const size_t at = Below(random, ids.size());
    if (Below(random, 2) == 0) {
      ids.erase(ids.begin() + static_cast<ptrdiff_t>(at));
    } else {
      ids[at] = static_cast<int32_t>(Below(random, 400)) - 1;
    }
    if (ids.empty()) return;
  }
  OutputProtocol protocol(tokenizer);
  const size_t cut = Below(random, ids.size());
  if (Below(random, 2) == 0) protocol.StartAfter(std::span(ids).first(cut));
  std::vector<OutputEvent> events = protocol.Append(std::span(ids).subspan(cut));
  for (OutputEvent& event : protocol.Finish()) events.push_back(std::move(event));
  StopMatcher stops({"}", "so", "hm\n"});
  for (const OutputEvent& event : events) {
    if (const auto* call = std::get_if<ToolCall>(&event)) {
      FACET_CHECK(nlohmann::json::accept(call->arguments_json)) << call->arguments_json;
    } else if (const auto* text = std::get_if<TextDelta>(&event)) {
      FACET_CHECK(IsUtf8(text->text) && !text->text.empty());
      FACET_CHECK(IsUtf8(stops.Append(text->text)));
    }
  }
}

int Main(int argc, char** argv) {
  const Tokenizer tokenizer = SmallTokenizer();
  return RunRounds("text_fuzz", argc, argv, [&](Random& random) {
    FuzzTokenizerFile(random);
    FuzzEncode(tokenizer, random);
    FuzzConversation(random);
    FuzzOutput(tokenizer, random);
  });
}

}  // namespace
}  // namespace facet

int main(int argc, char** argv) { return facet::Main(argc, argv); }
