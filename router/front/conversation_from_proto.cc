#include "router/front/conversation_from_proto.h"

#include <google/protobuf/struct.pb.h>

#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "proto/grpc_status.h"

namespace facet::router {
namespace {

using google::protobuf::Struct;
using google::protobuf::Value;

Status Wrong(const std::string& field, std::string_view what) {
  return WithField(InvalidArgument(field, " ", what), field);
}

OrderedJson JsonOf(const Struct& object);

// Depth is bounded: protobuf refuses messages that nest deeper than 100.
OrderedJson JsonOf(const Value& value) {  // NOLINT(misc-no-recursion)
  switch (value.kind_case()) {
    case Value::kNumberValue: {
      // Struct has doubles only; whole numbers are written as such.
      const double number = value.number_value();
      constexpr double kExactMax = 9007199254740992.0;
      if (number == std::floor(number) && std::abs(number) <= kExactMax) {
        return static_cast<int64_t>(number);
      }
      return number;
    }
    case Value::kStringValue:
      return value.string_value();
    case Value::kBoolValue:
      return value.bool_value();
    case Value::kStructValue:
      return JsonOf(value.struct_value());
    case Value::kListValue: {
      OrderedJson list = OrderedJson::array();
      for (const Value& item : value.list_value().values()) list.push_back(JsonOf(item));
      return list;
    }
    default:
      return nullptr;
  }
}

OrderedJson JsonOf(const Struct& object) {  // NOLINT(misc-no-recursion)
  // A protobuf map has no order; the same request must give the same prompt every time.
  std::map<std::string, const Value*> sorted;
  for (const auto& [key, value] : object.fields()) sorted[key] = &value;
  OrderedJson json = OrderedJson::object();
  for (const auto& [key, value] : sorted) json[key] = JsonOf(*value);
  return json;
}

std::optional<Role> RoleOf(std::string_view name) {
  if (name == "system") return Role::kSystem;
  if (name == "developer") return Role::kDeveloper;
  if (name == "user") return Role::kUser;
  if (name == "assistant") return Role::kAssistant;
  if (name == "tool") return Role::kTool;
  return std::nullopt;
}

StatusOr<Message> MessageFromProto(const v1::Message& message, const std::string& path) {
  Message result;
  const std::optional<Role> role = RoleOf(message.role());
  if (!role.has_value()) {
    const std::string shown = message.role().size() <= 32 ? message.role() : "too long";
    return Wrong(path + ".role", StrCat("is \"", shown,
                                        "\"; it must be system, developer, user, assistant or "
                                        "tool"));
  }
  result.role = *role;
  if (message.has_content()) {
    result.content = {.kind = Content::Kind::kText, .text = message.content()};
  } else if (result.role != Role::kAssistant || message.tool_calls().empty()) {
    return Wrong(path + ".content",
                 "is missing; only assistant messages with tool_calls need none");
  }
  if (!message.tool_calls().empty() && result.role != Role::kAssistant) {
    return Wrong(path + ".tool_calls", "belongs to the assistant alone");
  }
  result.reasoning = message.reasoning();
  for (const v1::ToolCall& call : message.tool_calls()) {
    if (call.name().empty()) return Wrong(path + ".tool_calls", "has a call without a name");
    MessageToolCall& added = result.tool_calls.emplace_back();
    if (!call.id().empty()) added.id = call.id();
    added.name = call.name();
    added.arguments = JsonOf(call.arguments());
    if (!call.arguments_json().empty()) {
      StatusOr<OrderedJson> arguments = ParseBoundedJson(call.arguments_json());
      if (!arguments.ok() || !arguments->is_object()) {
        return Wrong(path + ".tool_calls", "has arguments_json that is no JSON object");
      }
      added.arguments = std::move(*arguments);
    }
  }
  if (!message.tool_call_id().empty()) result.tool_call_id = message.tool_call_id();
  if (!message.name().empty()) result.name = message.name();
  return result;
}

}  // namespace

StatusOr<Conversation> ConversationFromProto(const v1::ChatRequest& request) {
  Conversation conversation;
  for (int i = 0; i < request.messages_size(); ++i) {
    FACET_ASSIGN_OR_RETURN(Message message,
                           MessageFromProto(request.messages(i), StrCat("messages[", i, "]")));
    conversation.messages.push_back(std::move(message));
  }
  for (int i = 0; i < request.tools_size(); ++i) {
    const v1::Tool& tool = request.tools(i);
    OrderedJson json = {{"type", "function"}, {"function", {{"name", tool.name()}}}};
    if (!tool.description().empty()) json["function"]["description"] = tool.description();
    if (tool.has_parameters()) json["function"]["parameters"] = JsonOf(tool.parameters());
    const std::string path = StrCat("tools[", i, "]");
    if (const Status status = CheckTool(json, path); !status.ok()) {
      return WithField(status, path);
    }
    conversation.tools.push_back(std::move(json));
  }
  conversation.enable_thinking = request.enable_thinking();
  conversation.preserve_thinking = request.preserve_thinking();
  return conversation;
}

}  // namespace facet::router
