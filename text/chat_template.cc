#include "text/chat_template.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/file.h"

namespace facet {
namespace {

constexpr std::string_view kQuote = "<|\"|>";

std::string Quoted(std::string_view text) { return StrCat(kQuote, text, kQuote); }

// value[name], or null where value is no object or has no such member.
const OrderedJson& Member(const OrderedJson& value, const char* name) {
  static const OrderedJson none;
  if (!value.is_object()) return none;
  const auto member = value.find(name);
  return member == value.end() ? none : *member;
}

// Jinja's dictsort: by the lower case of the key, equal ones in their own order.
std::vector<std::pair<std::string, const OrderedJson*>> SortedMembers(const OrderedJson& object) {
  struct Entry {
    std::string lower;
    std::pair<std::string, const OrderedJson*> member;
  };

  std::vector<Entry> entries;
  entries.reserve(object.size());
  for (const auto& [key, value] : object.items()) {
    entries.push_back({PythonLower(key), {key, &value}});
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.lower < b.lower; });
  std::vector<std::pair<std::string, const OrderedJson*>> members;
  members.reserve(entries.size());
  for (Entry& entry : entries) members.push_back(std::move(entry.member));
  return members;
}

// Writes a list with commas between the entries.
class CommaList {
 public:
  explicit CommaList(std::string& out) : out_(out) {}

  // Call before each entry.
  std::string& Next() {
    if (!first_) out_ += ',';
    first_ = false;
    return out_;
  }

 private:
  std::string& out_;
  bool first_ = true;
};

enum class KeyStyle { kBare, kQuoted };

// A value inside a call, a response or a declaration.
void WriteArgument(const OrderedJson& value, KeyStyle keys, std::string& out) {
  if (value.is_null()) {
    out += "null";
  } else if (value.is_string()) {
    out += Quoted(value.get_ref<const std::string&>());
  } else if (value.is_boolean()) {
    out += value.get<bool>() ? "true" : "false";
  } else if (value.is_object()) {
    out += '{';
    CommaList list(out);
    for (const auto& [key, member] : SortedMembers(value)) {
      list.Next() += keys == KeyStyle::kQuoted ? Quoted(key) : key;
      out += ':';
      WriteArgument(*member, keys, out);
    }
    out += '}';
  } else if (value.is_array()) {
    out += '[';
    CommaList list(out);
    for (const OrderedJson& item : value) WriteArgument(item, keys, list.Next());
    out += ']';
  } else {
    out += PythonStr(value);
  }
}

// {k:v,...} with bare keys, sorted.
void WriteArguments(const OrderedJson& object, std::string& out) {
  WriteArgument(object, KeyStyle::kBare, out);
}

// The type of a schema in upper case; empty if it has none. A list of types looks as in Python.
std::string UpperType(const OrderedJson& schema) {
  const OrderedJson& type = Member(schema, "type");
  return type.is_null() ? "" : AsciiUpper(PythonStr(type));
}

// Declares the parameters of one tool. Schemas are the client's, so every shape is met with what
// the template makes of it; only what the template itself fails on is an error.
class DeclarationWriter {
 public:
  DeclarationWriter(const OrderedJson& function, std::string where)
      : function_(function), where_(std::move(where)) {}

  StatusOr<std::string> Write() {
    out_ = "declaration:" + PythonStr(Member(function_, "name")) +
           "{description:" + Quoted(TextOrEmpty(Member(function_, "description")));
    if (const OrderedJson& parameters = Member(function_, "parameters"); PythonTruth(parameters)) {
      WriteParameters(parameters);
    }
    if (const OrderedJson& response = Member(function_, "response"); !response.is_null()) {
      WriteResponse(response);
    }
    out_ += '}';
    if (!status_.ok()) return status_;
    return std::string(PythonTrim(out_));
  }

 private:
  static std::string TextOrEmpty(const OrderedJson& value) {
    return value.is_null() ? "" : PythonStr(value);
  }

  void WriteParameters(const OrderedJson& parameters) {
    out_ += ",parameters:{";
    if (const OrderedJson& properties = Member(parameters, "properties"); PythonTruth(properties)) {
      if (!properties.is_object()) return Fail("parameters.properties must be an object");
      out_ += "properties:{";
      WriteProperties(properties, Filter::kNone);
      out_ += "},";
    }
    if (const OrderedJson& required = Member(parameters, "required"); PythonTruth(required)) {
      WriteRequired(required);
      out_ += ',';
    }
    const std::string type = UpperType(parameters);
    out_ += "type:" + Quoted(type.empty() ? "OBJECT" : type) + "}";
  }

  void WriteResponse(const OrderedJson& response) {
    out_ += ",response:{";
    const OrderedJson& description = Member(response, "description");
    if (PythonTruth(description)) {
      out_ += "description:" + Quoted(PythonStr(description)) + ",";
    }
    const std::string type = UpperType(response);
    if (type.empty() || type == "OBJECT") out_ += "type:" + Quoted("OBJECT") + "}";
  }

  // Whether a schema that is itself taken for a map of properties hides its own keywords.
  enum class Filter { kNone, kKeywords };

  void WriteProperties(const OrderedJson& properties, Filter filter) {
    CommaList list(out_);
    for (const auto& [name, schema] : SortedMembers(properties)) {
      if (filter == Filter::kKeywords &&
          (name == "description" || name == "type" || name == "properties" || name == "required" ||
           name == "nullable")) {
        continue;
      }
      list.Next() += name + ":{";
      WriteSchema(*schema);
      out_ += '}';
    }
  }

  // description, enum or items, nullable, properties and required, and type last.
  void WriteSchema(const OrderedJson& schema) {
    CommaList list(out_);
    const std::string type = UpperType(schema);
    if (const OrderedJson& description = Member(schema, "description"); PythonTruth(description)) {
      list.Next() += "description:" + Quoted(PythonStr(description));
    }
    if (const OrderedJson& values = Member(schema, "enum");
        type == "STRING" && PythonTruth(values)) {
      list.Next() += "enum:";
      WriteArgument(values, KeyStyle::kQuoted, out_);
    }
    if (const OrderedJson& items = Member(schema, "items");
        type == "ARRAY" && items.is_object() && !items.empty()) {
      list.Next() += "items:{";
      WriteItems(items);
      out_ += '}';
    }
    if (PythonTruth(Member(schema, "nullable"))) list.Next() += "nullable:true";
    if (type == "OBJECT") WriteObject(schema, list);
    list.Next() += "type:" + Quoted(type);
  }

  // A type of "OBJECT" implies that schema is an object.
  void WriteObject(const OrderedJson& schema, CommaList& list) {
    const OrderedJson& properties = Member(schema, "properties");
    list.Next() += "properties:{";
    if (properties.is_object()) {
      WriteProperties(properties, Filter::kNone);
    } else {
      WriteProperties(schema, Filter::kKeywords);
    }
    out_ += '}';
    if (const OrderedJson& required = Member(schema, "required"); PythonTruth(required)) {
      WriteRequired(required, &list);
    }
  }

  void WriteItems(const OrderedJson& items) {
    CommaList list(out_);
    for (const auto& [key, value] : SortedMembers(items)) {
      if (value->is_null()) continue;
      if (key == "properties") {
        list.Next() += "properties:{";
        if (value->is_object()) WriteProperties(*value, Filter::kNone);
        out_ += '}';
      } else if (key == "required") {
        WriteRequired(*value, &list);
      } else if (key == "type") {
        list.Next() += "type:";
        WriteArgument(UpperTypes(*value), KeyStyle::kQuoted, out_);
      } else {
        list.Next() += key + ":";
        WriteArgument(*value, KeyStyle::kQuoted, out_);
      }
    }
  }

  OrderedJson UpperTypes(const OrderedJson& type) {
    if (type.is_string()) return AsciiUpper(type.get_ref<const std::string&>());
    if (!type.is_array()) {
      Fail("items.type must be a string or an array");
      return nullptr;
    }
    OrderedJson types = OrderedJson::array();
    for (const OrderedJson& item : type) types.push_back(AsciiUpper(PythonStr(item)));
    return types;
  }

  void WriteRequired(const OrderedJson& required, CommaList* list = nullptr) {
    if (!required.is_array()) return Fail("required must be an array");
    if (list != nullptr) list->Next();
    out_ += "required:[";
    CommaList names(out_);
    for (const OrderedJson& name : required) names.Next() += Quoted(PythonStr(name));
    out_ += ']';
  }

  void Fail(std::string_view what) {
    if (status_.ok()) status_ = InvalidArgument(where_, ": ", what);
  }

  const OrderedJson& function_;
  const std::string where_;
  std::string out_;
  Status status_;
};

// Model text without its thoughts: every <|channel>...<channel|> span is cut, then white space.
std::string StripThinking(std::string_view text) {
  static constexpr std::string_view kOpen = "<|channel>";
  static constexpr std::string_view kClose = "<channel|>";
  std::string kept;
  while (true) {
    const size_t close = text.find(kClose);
    const std::string_view part = text.substr(0, close);
    kept += part.substr(0, part.find(kOpen));
    if (close == text.npos) break;
    text.remove_prefix(close + kClose.size());
  }
  return std::string(PythonTrim(kept));
}

std::string_view Placeholder(ContentPart::Kind kind) {
  switch (kind) {
    case ContentPart::Kind::kImage:
      return "<|image|>";
    case ContentPart::Kind::kAudio:
      return "<|audio|>";
    case ContentPart::Kind::kVideo:
      return "<|video|>";
    case ContentPart::Kind::kText:
      break;
  }
  return "";
}

std::string_view TurnName(Role role) {
  switch (role) {
    case Role::kSystem:
      return "system";
    case Role::kDeveloper:
      return "developer";
    case Role::kUser:
      return "user";
    case Role::kAssistant:
      return "model";
    case Role::kTool:
      break;
  }
  return "tool";
}

bool IsSystem(const Message& message) {
  return message.role == Role::kSystem || message.role == Role::kDeveloper;
}

// The text of a user's or the model's message, each part trimmed by itself.
std::string ContentText(const Message& message) {
  const auto trim = [&](std::string_view text) {
    return message.role == Role::kAssistant ? StripThinking(text) : std::string(PythonTrim(text));
  };
  if (message.content.kind == Content::Kind::kText) return trim(message.content.text);
  std::string result;
  for (const ContentPart& part : message.content.parts) {
    if (part.kind == ContentPart::Kind::kText) {
      result += trim(part.text);
    } else {
      result += Placeholder(part.kind);
    }
  }
  return result;
}

// Renders the turns after the system's.
class TurnWriter {
 public:
  TurnWriter(const Conversation& conversation, size_t first, TemplateVariant variant)
      : conversation_(conversation),
        messages_(conversation.messages),
        first_(first),
        variant_(variant) {}

  std::string Write() {
    size_t after_last_user = first_;  // Reasoning is shown from here on.
    for (size_t i = first_; i < messages_.size(); ++i) {
      if (messages_[i].role == Role::kUser) after_last_user = i + 1;
    }
    for (size_t i = first_; i < messages_.size(); ++i) {
      if (messages_[i].role != Role::kTool) WriteTurn(i, i >= after_last_user);
    }
    if (conversation_.add_generation_prompt) WriteGenerationPrompt();
    return std::move(out_);
  }

 private:
  // How the last turn ended, which decides how the next begins.
  enum class End { kText, kToolCall, kToolResponse };

  void WriteTurn(size_t i, bool shows_reasoning) {
    const Message& message = messages_[i];
    const Message* previous = Neighbour(i, -1);
    const Message* next = Neighbour(i, +1);
    const bool is_model = message.role == Role::kAssistant;
    if (!(is_model && previous != nullptr && previous->role == Role::kAssistant)) {
      out_ += StrCat("<|turn>", TurnName(message.role), "\n");
    }
    shows_reasoning |= conversation_.preserve_thinking && !message.tool_calls.empty();
    if (!message.reasoning.empty() && shows_reasoning) {
      out_ += "<|channel>thought\n" + message.reasoning + "\n<channel|>";
    }
    WriteToolCalls(message);
    const bool has_responses = !message.tool_calls.empty() && WriteToolResponses(i);
    const std::string content = ContentText(message);
    out_ += content;

    end_ = has_responses                ? End::kToolResponse
           : message.tool_calls.empty() ? End::kText
                                        : End::kToolCall;
    if (end_ == End::kToolCall) {
      out_ += "<|tool_response>";
      return;
    }
    if (is_model && next != nullptr && next->role == Role::kAssistant) return;
    const bool stays_open = has_responses && PythonTrim(content).empty() && next == nullptr;
    if (!stays_open) out_ += "<turn|>\n";
  }

  // The nearest message before (-1) or after (+1) message i that is not a tool's; null if none.
  const Message* Neighbour(size_t i, int step) const {
    for (size_t at = i; step < 0 ? at > first_ : at + 1 < messages_.size();) {
      at += static_cast<size_t>(step);
      if (messages_[at].role != Role::kTool) return &messages_[at];
    }
    return nullptr;
  }

  void WriteToolCalls(const Message& message) {
    for (const MessageToolCall& call : message.tool_calls) {
      out_ += "<|tool_call>call:" + call.name;
      WriteArguments(call.arguments, out_);
      out_ += "<tool_call|>";
    }
  }

  // The tool messages that follow message i directly; false if there are none.
  bool WriteToolResponses(size_t i) {
    size_t at = i + 1;
    for (; at < messages_.size() && messages_[at].role == Role::kTool; ++at) {
      const Message& tool = messages_[at];
      out_ += "<|tool_response>response:" + ToolName(messages_[i], tool) + "{value:";
      std::string text = tool.content.text;
      std::string media;
      for (const ContentPart& part : tool.content.parts) {
        text += part.text;
        media += Placeholder(part.kind);
      }
      out_ += tool.content.kind == Content::Kind::kNull ? "null" : Quoted(text);
      out_ += "}<tool_response|>" + media;
    }
    return at > i + 1;
  }

  // The name of the last call with the tool's id (two absent ids are equal), else the tool's own.
  static std::string ToolName(const Message& caller, const Message& tool) {
    std::string name = tool.name && !tool.name->empty() ? *tool.name : "unknown";
    for (const MessageToolCall& call : caller.tool_calls) {
      if (call.id == tool.tool_call_id) name = call.name;
    }
    return name;
  }

  void WriteGenerationPrompt() {
    if (end_ == End::kText) {
      out_ += "<|turn>model\n";
      if (variant_ == TemplateVariant::kLarge && !conversation_.enable_thinking) {
        out_ += "<|channel>thought\n<channel|>";
      }
    } else if (end_ == End::kToolResponse && conversation_.enable_thinking) {
      out_ += "<|channel>thought\n";
    }
  }

  const Conversation& conversation_;
  const std::vector<Message>& messages_;
  const size_t first_;
  const TemplateVariant variant_;
  std::string out_;
  End end_ = End::kText;
};

// In a system message given as parts, each ends with a space, and media are only that.
std::string SystemText(const Message& message) {
  if (message.content.kind == Content::Kind::kText) {
    return std::string(PythonTrim(message.content.text));
  }
  std::string result;
  for (const ContentPart& part : message.content.parts) {
    result += std::string(PythonTrim(part.text)) + " ";
  }
  return result;
}

bool IsTooDeep(const OrderedJson& value, size_t depth_left) {
  if (!value.is_structured()) return false;
  if (depth_left == 0) return true;
  return std::any_of(value.begin(), value.end(),
                     [&](const OrderedJson& member) { return IsTooDeep(member, depth_left - 1); });
}

// What the writers below rely on and a conversation built without a parser may lack.
Status CheckConversation(const Conversation& conversation) {
  for (size_t i = 0; i < conversation.messages.size(); ++i) {
    const Message& message = conversation.messages[i];
    for (size_t j = 0; j < message.tool_calls.size(); ++j) {
      const OrderedJson& arguments = message.tool_calls[j].arguments;
      const std::string where = StrCat("messages[", i, "].tool_calls[", j, "].function.arguments");
      if (!arguments.is_object()) return InvalidArgument(where, " must be a JSON object");
      if (IsTooDeep(arguments, kJsonDepthMax)) {
        return InvalidArgument(where, " nests deeper than ", kJsonDepthMax);
      }
    }
  }
  for (size_t i = 0; i < conversation.tools.size(); ++i) {
    const std::string where = StrCat("tools[", i, "]");
    if (IsTooDeep(conversation.tools[i], kJsonDepthMax)) {
      return InvalidArgument(where, " nests deeper than ", kJsonDepthMax);
    }
    FACET_RETURN_IF_ERROR(CheckTool(conversation.tools[i], where));
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<std::string> RenderChat(const Conversation& conversation, TemplateVariant variant) {
  FACET_RETURN_IF_ERROR(CheckConversation(conversation));
  const bool has_system = !conversation.messages.empty() && IsSystem(conversation.messages.front());
  std::string prompt = "<bos>";
  if (conversation.enable_thinking || !conversation.tools.empty() || has_system) {
    prompt += "<|turn>system\n";
    if (conversation.enable_thinking) prompt += "<|think|>\n";
    if (has_system) prompt += SystemText(conversation.messages.front());
    for (size_t i = 0; i < conversation.tools.size(); ++i) {
      DeclarationWriter writer(conversation.tools[i]["function"],
                               StrCat("tools[", i, "].function"));
      FACET_ASSIGN_OR_RETURN(const std::string declaration, writer.Write());
      prompt += "<|tool>" + declaration + "<tool|>";
    }
    prompt += "<turn|>\n";
  }
  return prompt + TurnWriter(conversation, has_system ? 1 : 0, variant).Write();
}

DetectedTemplate DetectTemplateText(std::string_view jinja, TemplateVariant by_shape) {
  const auto has = [&](std::string_view part) { return jinja.find(part) != jinja.npos; };
  // The header's date, the switch new in that revision, and its rule for one turn over several
  // messages.
  if (!has("2026-07-09") || !has("preserve_thinking") || !has("continues_into_next")) {
    return {.variant = by_shape,
            .warning = StrCat("the chat template is not the revision of 2026-07-09; prompts are "
                              "rendered as that revision's ",
                              by_shape == TemplateVariant::kSmall ? "small" : "large", " variant")};
  }
  // The empty thought channel of the generation prompt is in one string, with \n written out.
  const bool is_large = has("<|channel>thought\\n<channel|>");
  return {.variant = is_large ? TemplateVariant::kLarge : TemplateVariant::kSmall};
}

DetectedTemplate DetectTemplate(const std::string& directory, TemplateVariant by_shape) {
  const std::filesystem::path root(directory);
  if (const StatusOr<std::string> jinja = ReadFile((root / "chat_template.jinja").string());
      jinja.ok() && !jinja->empty()) {
    return DetectTemplateText(*jinja, by_shape);
  }
  const StatusOr<std::string> config = ReadFile((root / "tokenizer_config.json").string());
  if (config.ok()) {
    const auto json = OrderedJson::parse(*config, nullptr, false);
    const OrderedJson& chat_template = Member(json, "chat_template");
    if (chat_template.is_string()) {
      return DetectTemplateText(chat_template.get_ref<const std::string&>(), by_shape);
    }
  }
  return {.variant = by_shape,
          .warning = StrCat("no chat template in ", directory, "; prompts are rendered as the ",
                            by_shape == TemplateVariant::kSmall ? "small" : "large",
                            " template of 2026-07-09")};
}

}  // namespace facet
