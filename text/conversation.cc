#include "text/conversation.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

namespace facet {
namespace {

std::string_view TypeName(const OrderedJson& value) {
  if (value.is_null()) return "null";
  if (value.is_boolean()) return "a boolean";
  if (value.is_number()) return "a number";
  if (value.is_string()) return "a string";
  return value.is_array() ? "an array" : "an object";
}

// The members of one JSON object by name, and the names of the fields for errors.
class Fields {
 public:
  Fields(const OrderedJson& value, std::string_view where) : value_(value), where_(where) {}

  // The whole must be an object that has no members but these; null ones are tolerated.
  Status CheckNames(std::initializer_list<std::string_view> names) const {
    if (!value_.is_object()) {
      return InvalidArgument(where_.empty() ? "the conversation" : where_,
                             " must be an object, not ", TypeName(value_));
    }
    for (const auto& [name, member] : value_.items()) {
      if (std::find(names.begin(), names.end(), name) == names.end() && !member.is_null()) {
        return InvalidArgument(Name(name), " is not a known field");
      }
    }
    return absl::OkStatus();
  }

  // Null if the member is absent or null.
  const OrderedJson* Find(std::string_view name) const {
    const auto member = value_.find(std::string(name));
    return member == value_.end() || member->is_null() ? nullptr : &*member;
  }

  StatusOr<std::optional<std::string>> OptionalString(std::string_view name) const {
    const OrderedJson* member = Find(name);
    if (member == nullptr) return std::optional<std::string>();
    if (!member->is_string()) return WrongType(name, "a string", *member);
    return std::optional<std::string>(member->get<std::string>());
  }

  StatusOr<std::string> NonEmptyString(std::string_view name) const {
    FACET_ASSIGN_OR_RETURN(std::optional<std::string> text, OptionalString(name));
    if (!text || text->empty()) return InvalidArgument(Name(name), " is missing or empty");
    return *std::move(text);
  }

  StatusOr<bool> Bool(std::string_view name, bool fallback) const {
    const OrderedJson* member = Find(name);
    if (member == nullptr) return fallback;
    if (!member->is_boolean()) return WrongType(name, "true or false", *member);
    return member->get<bool>();
  }

  Status WrongType(std::string_view name, std::string_view want, const OrderedJson& is) const {
    return InvalidArgument(Name(name), " must be ", want, ", not ", TypeName(is));
  }

  std::string Name(std::string_view name) const {
    return where_.empty() ? std::string(name) : StrCat(where_, ".", name);
  }

 private:
  const OrderedJson& value_;
  std::string where_;
};

StatusOr<Role> ParseRole(const Fields& fields) {
  FACET_ASSIGN_OR_RETURN(const std::string name, fields.NonEmptyString("role"));
  static constexpr std::pair<std::string_view, Role> kRoles[] = {{"system", Role::kSystem},
                                                                 {"developer", Role::kDeveloper},
                                                                 {"user", Role::kUser},
                                                                 {"assistant", Role::kAssistant},
                                                                 {"tool", Role::kTool}};
  for (const auto& [known, role] : kRoles) {
    if (name == known) return role;
  }
  return InvalidArgument(fields.Name("role"), " is ", OrderedJson(name).dump(),
                         "; known are system, developer, user, assistant and tool");
}

StatusOr<ContentPart> ParsePart(const OrderedJson& value, const std::string& where) {
  const Fields fields(value, where);
  FACET_RETURN_IF_ERROR(
      fields.CheckNames({"type", "text", "image", "image_url", "audio", "input_audio", "video"}));
  FACET_ASSIGN_OR_RETURN(const std::string type, fields.NonEmptyString("type"));
  using Kind = ContentPart::Kind;
  if (type == "image" || type == "image_url") return ContentPart{.kind = Kind::kImage};
  if (type == "audio" || type == "input_audio") return ContentPart{.kind = Kind::kAudio};
  if (type == "video") return ContentPart{.kind = Kind::kVideo};
  if (type != "text") {
    return InvalidArgument(fields.Name("type"), " is ", OrderedJson(type).dump(),
                           "; known are text, image, image_url, audio, input_audio and video");
  }
  FACET_ASSIGN_OR_RETURN(std::optional<std::string> text, fields.OptionalString("text"));
  if (!text) return InvalidArgument(fields.Name("text"), " is missing");
  return ContentPart{.kind = Kind::kText, .text = *std::move(text)};
}

StatusOr<Content> ParseContent(const Fields& fields) {
  Content content;
  const OrderedJson* value = fields.Find("content");
  if (value == nullptr) return content;
  if (value->is_string()) {
    content.kind = Content::Kind::kText;
    content.text = value->get<std::string>();
    return content;
  }
  if (!value->is_array()) {
    return fields.WrongType("content", "a string or an array of parts", *value);
  }
  content.kind = Content::Kind::kParts;
  for (size_t i = 0; i < value->size(); ++i) {
    const std::string where = StrCat(fields.Name("content"), "[", i, "]");
    FACET_ASSIGN_OR_RETURN(ContentPart part, ParsePart((*value)[i], where));
    content.parts.push_back(std::move(part));
  }
  return content;
}

StatusOr<MessageToolCall> ParseToolCall(const OrderedJson& value, const std::string& where) {
  const Fields fields(value, where);
  FACET_RETURN_IF_ERROR(fields.CheckNames({"id", "type", "index", "function"}));
  MessageToolCall call;
  FACET_ASSIGN_OR_RETURN(call.id, fields.OptionalString("id"));
  const OrderedJson* function = fields.Find("function");
  if (function == nullptr) return InvalidArgument(fields.Name("function"), " is missing");
  const Fields function_fields(*function, fields.Name("function"));
  FACET_RETURN_IF_ERROR(function_fields.CheckNames({"name", "arguments"}));
  FACET_ASSIGN_OR_RETURN(call.name, function_fields.NonEmptyString("name"));
  if (const OrderedJson* arguments = function_fields.Find("arguments")) {
    if (!arguments->is_object()) {
      return function_fields.WrongType("arguments", "a JSON object", *arguments);
    }
    call.arguments = *arguments;
  }
  return call;
}

// reasoning, or where that is absent or empty, reasoning_content.
StatusOr<std::string> ParseReasoning(const Fields& fields) {
  FACET_ASSIGN_OR_RETURN(std::optional<std::string> reasoning, fields.OptionalString("reasoning"));
  FACET_ASSIGN_OR_RETURN(std::optional<std::string> content,
                         fields.OptionalString("reasoning_content"));
  return reasoning && !reasoning->empty() ? *reasoning : content.value_or("");
}

// A pass over the brackets and commas of a text that may not even be JSON.
Status CheckJsonBounds(std::string_view text) {
  std::vector<size_t> members;  // Of each open container, commas so far.
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (members.size() == kJsonDepthMax) {
        return InvalidArgument("JSON nests deeper than ", kJsonDepthMax, " at byte ", i);
      }
      members.push_back(c == '[' ? SIZE_MAX : 1);
    } else if ((c == '}' || c == ']') && !members.empty()) {
      members.pop_back();
    } else if (c == ',' && !members.empty() && members.back() != SIZE_MAX) {
      if (++members.back() > kJsonMembersMax) {
        return InvalidArgument("a JSON object has more than ", kJsonMembersMax, " members at byte ",
                               i);
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<OrderedJson> ParseBoundedJson(std::string_view text) {
  FACET_RETURN_IF_ERROR(CheckJsonBounds(text));
  try {
    return OrderedJson::parse(text.begin(), text.end());
  } catch (const OrderedJson::parse_error& error) {
    return InvalidArgument("not valid JSON at byte ", error.byte);
  } catch (const OrderedJson::exception&) {
    return InvalidArgument("JSON has a number that is too large");
  }
}

StatusOr<Message> ParseMessage(const OrderedJson& value, std::string_view where) {
  const Fields fields(value, where);
  FACET_RETURN_IF_ERROR(fields.CheckNames(
      {"role", "content", "reasoning", "reasoning_content", "tool_calls", "tool_call_id", "name"}));
  Message message;
  FACET_ASSIGN_OR_RETURN(message.role, ParseRole(fields));
  FACET_ASSIGN_OR_RETURN(message.content, ParseContent(fields));
  FACET_ASSIGN_OR_RETURN(message.reasoning, ParseReasoning(fields));
  FACET_ASSIGN_OR_RETURN(message.tool_call_id, fields.OptionalString("tool_call_id"));
  FACET_ASSIGN_OR_RETURN(message.name, fields.OptionalString("name"));
  if (const OrderedJson* calls = fields.Find("tool_calls")) {
    if (!calls->is_array()) return fields.WrongType("tool_calls", "an array", *calls);
    if (message.role != Role::kAssistant && !calls->empty()) {
      return InvalidArgument(fields.Name("tool_calls"), " belongs to the assistant alone");
    }
    for (size_t i = 0; i < calls->size(); ++i) {
      const std::string call_where = StrCat(fields.Name("tool_calls"), "[", i, "]");
      FACET_ASSIGN_OR_RETURN(MessageToolCall call, ParseToolCall((*calls)[i], call_where));
      message.tool_calls.push_back(std::move(call));
    }
  }
  return message;
}

// Names and types only as far as every template needs them; the schema inside is the model's to
// read.
Status CheckTool(const OrderedJson& tool, std::string_view where) {
  const Fields fields(tool, where);
  FACET_RETURN_IF_ERROR(fields.CheckNames({"type", "function"}));
  FACET_ASSIGN_OR_RETURN(const std::optional<std::string> type, fields.OptionalString("type"));
  if (type && *type != "function") {
    return InvalidArgument(fields.Name("type"), " is ", OrderedJson(*type).dump(),
                           "; known is function");
  }
  const OrderedJson* function = fields.Find("function");
  if (function == nullptr) return InvalidArgument(fields.Name("function"), " is missing");
  const Fields function_fields(*function, fields.Name("function"));
  FACET_RETURN_IF_ERROR(
      function_fields.CheckNames({"name", "description", "parameters", "response", "strict"}));
  FACET_RETURN_IF_ERROR(function_fields.NonEmptyString("name").status());
  FACET_RETURN_IF_ERROR(function_fields.OptionalString("description").status());
  FACET_RETURN_IF_ERROR(function_fields.Bool("strict", false).status());
  for (const char* schema : {"parameters", "response"}) {
    const OrderedJson* member = function_fields.Find(schema);
    if (member != nullptr && !member->is_object()) {
      return function_fields.WrongType(schema, "an object", *member);
    }
  }
  return absl::OkStatus();
}

StatusOr<Conversation> ParseConversation(const OrderedJson& value) {
  const Fields fields(value, "");
  FACET_RETURN_IF_ERROR(fields.CheckNames(
      {"messages", "tools", "enable_thinking", "preserve_thinking", "add_generation_prompt"}));
  Conversation conversation;
  const OrderedJson* messages = fields.Find("messages");
  if (messages == nullptr) return InvalidArgument("messages is missing");
  if (!messages->is_array()) return fields.WrongType("messages", "an array", *messages);
  if (messages->empty()) return InvalidArgument("messages is empty");
  for (size_t i = 0; i < messages->size(); ++i) {
    FACET_ASSIGN_OR_RETURN(Message message,
                           ParseMessage((*messages)[i], StrCat("messages[", i, "]")));
    conversation.messages.push_back(std::move(message));
  }
  if (const OrderedJson* tools = fields.Find("tools")) {
    if (!tools->is_array()) return fields.WrongType("tools", "an array", *tools);
    for (size_t i = 0; i < tools->size(); ++i) {
      FACET_RETURN_IF_ERROR(CheckTool((*tools)[i], StrCat("tools[", i, "]")));
      conversation.tools.push_back((*tools)[i]);
    }
  }
  FACET_ASSIGN_OR_RETURN(conversation.enable_thinking, fields.Bool("enable_thinking", false));
  FACET_ASSIGN_OR_RETURN(conversation.preserve_thinking, fields.Bool("preserve_thinking", false));
  FACET_ASSIGN_OR_RETURN(conversation.add_generation_prompt,
                         fields.Bool("add_generation_prompt", true));
  return conversation;
}

StatusOr<Conversation> ParseConversationJson(std::string_view text) {
  FACET_ASSIGN_OR_RETURN(const OrderedJson value, ParseBoundedJson(text));
  return ParseConversation(value);
}

}  // namespace facet
