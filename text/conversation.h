// What a client says to a model, before it becomes text: messages, tools and the switches of the
// chat template. Plain values; ParseConversationJson reads them from OpenAI-style JSON.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "text/python_text.h"

namespace facet {

enum class Role { kSystem, kDeveloper, kUser, kAssistant, kTool };

struct ContentPart {
  enum class Kind { kText, kImage, kAudio, kVideo };

  Kind kind = Kind::kText;
  std::string text = {};  // Of a text part; media become their placeholder.
};

// A call that the model made earlier.
struct MessageToolCall {
  std::optional<std::string> id = {};
  std::string name = {};
  OrderedJson arguments = OrderedJson::object();  // Always an object.
};

// What a message says. Null is legal where an assistant only calls tools.
struct Content {
  enum class Kind { kNull, kText, kParts };

  Kind kind = Kind::kNull;
  std::string text = {};                // With kText.
  std::vector<ContentPart> parts = {};  // With kParts.
};

struct Message {
  Role role = Role::kUser;
  Content content = {};
  std::string reasoning = {};                    // Of an assistant; empty if there is none.
  std::vector<MessageToolCall> tool_calls = {};  // Of an assistant.
  std::optional<std::string> tool_call_id = {};  // Of a tool: which call this answers.
  std::optional<std::string> name = {};          // Of a tool, where no call has the id.
};

struct Conversation {
  std::vector<Message> messages = {};
  std::vector<OrderedJson> tools = {};  // {"type": "function", "function": {"name": ...}}
  bool enable_thinking = false;
  bool preserve_thinking = false;  // Keeps the reasoning of earlier turns that called tools.
  bool add_generation_prompt = true;
};

// JSON that nests deeper, or has an object of more members, is refused wherever it comes from: the
// first bounds the stack, the second the time, since an ordered object is searched from its start.
inline constexpr size_t kJsonDepthMax = 64;
inline constexpr size_t kJsonMembersMax = 512;

// Parses text within these bounds. InvalidArgument says what is wrong and where.
StatusOr<OrderedJson> ParseBoundedJson(std::string_view text);

// Reads {"messages": [...], "tools": [...], "enable_thinking": ..., "preserve_thinking": ...,
// "add_generation_prompt": ...}. InvalidArgument names the field: one that is unknown, missing or
// of the wrong type. A field that is null counts as absent.
StatusOr<Conversation> ParseConversationJson(std::string_view text);
StatusOr<Conversation> ParseConversation(const OrderedJson& value);

// The same for the parts, for callers whose JSON has more around them; `where` begins the names of
// fields in errors ("messages[3]", "tools[0]").
StatusOr<Message> ParseMessage(const OrderedJson& value, std::string_view where);
Status CheckTool(const OrderedJson& tool, std::string_view where);

}  // namespace facet
