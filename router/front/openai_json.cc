#include "router/front/openai_json.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <utility>

#include "proto/grpc_status.h"
#include "text/utf8.h"

namespace facet::router {
namespace {

std::string Dump(const OrderedJson& json) {
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

template <typename... Parts>
Status Wrong(std::string_view param, const Parts&... parts) {
  return WithField(InvalidArgument(param, " ", parts...), param);
}

// Names a parameter that is right in OpenAI's API but not served.
Status NotServed(std::string_view param, std::string_view served) {
  return WithReason(Wrong(param, "asks for what is not served; ", served), "UNSUPPORTED_PARAMETER");
}

StatusOr<bool> ReadBool(const OrderedJson& value, std::string_view param) {
  if (!value.is_boolean()) return Wrong(param, "must be true or false");
  return value.get<bool>();
}

StatusOr<float> ReadNumber(const OrderedJson& value, std::string_view param) {
  if (!value.is_number()) return Wrong(param, "must be a number");
  return value.get<float>();
}

StatusOr<int32_t> ReadInt(const OrderedJson& value, std::string_view param) {
  if (!value.is_number_integer()) return Wrong(param, "must be an integer");
  const bool huge = value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX;
  if (huge || value.get<int64_t>() < INT32_MIN || value.get<int64_t>() > INT32_MAX) {
    return Wrong(param, "is ", Dump(value), ", which no limit allows");
  }
  return value.get<int32_t>();
}

StatusOr<std::string> ReadString(const OrderedJson& value, std::string_view param) {
  if (!value.is_string()) return Wrong(param, "must be a string");
  return value.get<std::string>();
}

// OpenAI writes the arguments of a call as JSON in a string.
Status ParseArguments(OrderedJson& message, const std::string& where) {
  const auto calls = message.is_object() ? message.find("tool_calls") : message.end();
  if (!message.is_object() || calls == message.end() || !calls->is_array()) return absl::OkStatus();
  for (OrderedJson& call : *calls) {
    if (!call.is_object() || !call.contains("function") || !call["function"].is_object()) continue;
    OrderedJson& function = call["function"];
    const auto arguments = function.find("arguments");
    if (arguments == function.end() || !arguments->is_string()) continue;
    const std::string text = arguments->get<std::string>();
    StatusOr<OrderedJson> parsed = ParseBoundedJson(text.empty() ? "{}" : text);
    if (!parsed.ok()) {
      return Wrong(where, "has a tool call whose arguments are ", MessageOf(parsed.status()));
    }
    *arguments = std::move(*parsed);
  }
  return absl::OkStatus();
}

Status ReadMessages(const OrderedJson& value, Conversation& conversation) {
  if (!value.is_array()) return Wrong("messages", "must be an array");
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string where = StrCat("messages[", i, "]");
    OrderedJson message = value[i];
    FACET_RETURN_IF_ERROR(ParseArguments(message, where));
    StatusOr<Message> parsed = ParseMessage(message, where);
    if (!parsed.ok()) return WithField(parsed.status(), where);
    const bool silent = parsed->content.kind == Content::Kind::kNull;
    if (silent && (parsed->role != Role::kAssistant || parsed->tool_calls.empty())) {
      return Wrong(where + ".content", "is missing");
    }
    conversation.messages.push_back(std::move(*parsed));
  }
  return absl::OkStatus();
}

Status ReadTools(const OrderedJson& value, Conversation& conversation) {
  if (!value.is_array()) return Wrong("tools", "must be an array");
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string where = StrCat("tools[", i, "]");
    if (const Status status = CheckTool(value[i], where); !status.ok()) {
      return WithField(status, where);
    }
    conversation.tools.push_back(value[i]);
  }
  return absl::OkStatus();
}

Status ReadStop(const OrderedJson& value, v1::Limits& limits) {
  if (value.is_string()) {
    limits.add_stop(value.get<std::string>());
    return absl::OkStatus();
  }
  if (!value.is_array()) return Wrong("stop", "must be a string or an array of strings");
  for (const OrderedJson& stop : value) {
    FACET_ASSIGN_OR_RETURN(std::string text, ReadString(stop, "stop"));
    limits.add_stop(std::move(text));
  }
  return absl::OkStatus();
}

Status ReadLogitBias(const OrderedJson& value, v1::Sampling& sampling) {
  if (!value.is_object()) return Wrong("logit_bias", "must be an object");
  for (const auto& [key, bias] : value.items()) {
    if (key.empty() || key.size() > 9 || key.find_first_not_of("0123456789") != key.npos) {
      return Wrong("logit_bias", "has the key ", Dump(key), ", which is no token id");
    }
    FACET_ASSIGN_OR_RETURN((*sampling.mutable_logit_bias())[std::stoi(key)],
                           ReadNumber(bias, "logit_bias"));
  }
  return absl::OkStatus();
}

Status ReadStreamOptions(const OrderedJson& value, OpenAiRequest& result) {
  if (!value.is_object()) return Wrong("stream_options", "must be an object");
  for (const auto& [key, member] : value.items()) {
    if (key != "include_usage") return NotServed("stream_options." + key, "only include_usage is");
    FACET_ASSIGN_OR_RETURN(result.include_usage, ReadBool(member, "stream_options.include_usage"));
  }
  return absl::OkStatus();
}

Status ReadTemplateArguments(const OrderedJson& value, Conversation& conversation) {
  if (!value.is_object()) return Wrong("chat_template_kwargs", "must be an object");
  for (const auto& [key, member] : value.items()) {
    const std::string param = "chat_template_kwargs." + key;
    if (key == "enable_thinking") {
      FACET_ASSIGN_OR_RETURN(conversation.enable_thinking, ReadBool(member, param));
    } else if (key == "preserve_thinking") {
      FACET_ASSIGN_OR_RETURN(conversation.preserve_thinking, ReadBool(member, param));
    } else {
      return NotServed(param, "enable_thinking and preserve_thinking are");
    }
  }
  return absl::OkStatus();
}

// The state of one parse; each parameter has one row in Readers().
struct Parse {
  OpenAiRequest result;
  Conversation conversation;
  bool tools_off = false;
  int32_t top_logprobs = 0;
};

using Reader = std::function<Status(const OrderedJson& value, const std::string& param, Parse& it)>;

// Reads a number into a field of Sampling.
template <auto Setter>
Status SamplingNumber(const OrderedJson& value, const std::string& param, Parse& it) {
  FACET_ASSIGN_OR_RETURN(const float number, ReadNumber(value, param));
  (it.result.request.sampling.*Setter)(number);
  return absl::OkStatus();
}

Status ReadNewTokensMax(const OrderedJson& value, const std::string& param, Parse& it) {
  FACET_ASSIGN_OR_RETURN(const int32_t tokens, ReadInt(value, param));
  v1::Limits& limits = it.result.request.limits;
  if (limits.has_new_tokens_max() && limits.new_tokens_max() != tokens) {
    return Wrong(param, "is ", tokens, ", but max_tokens and max_completion_tokens mean the same");
  }
  if (tokens < 1) return Wrong(param, "is ", tokens, "; it must be at least 1");
  limits.set_new_tokens_max(tokens);
  return absl::OkStatus();
}

const std::map<std::string, Reader, std::less<>>& Readers() {
  using Json = OrderedJson;
  using String = std::string;
  static const auto* const kReaders = new std::map<std::string, Reader, std::less<>>{
      {"model",
       [](const Json& value, const String& param, Parse& it) -> Status {
         FACET_ASSIGN_OR_RETURN(it.result.request.model, ReadString(value, param));
         return absl::OkStatus();
       }},
      {"messages", [](const Json& value, const String&,
                      Parse& it) { return ReadMessages(value, it.conversation); }},
      {"tools", [](const Json& value, const String&,
                   Parse& it) { return ReadTools(value, it.conversation); }},
      {"tool_choice",
       [](const Json& value, const String& param, Parse& it) -> Status {
         it.tools_off = value == "none";
         if (value == "none" || value == "auto") return absl::OkStatus();
         return NotServed(param, "\"auto\" and \"none\" are");
       }},
      {"parallel_tool_calls",
       [](const Json& value, const String& param, Parse&) -> Status {
         return value == true ? absl::OkStatus() : NotServed(param, "true is");
       }},
      {"temperature", SamplingNumber<&v1::Sampling::set_temperature>},
      {"top_p", SamplingNumber<&v1::Sampling::set_top_p>},
      {"min_p", SamplingNumber<&v1::Sampling::set_min_p>},
      {"presence_penalty", SamplingNumber<&v1::Sampling::set_presence_penalty>},
      {"frequency_penalty", SamplingNumber<&v1::Sampling::set_frequency_penalty>},
      {"repetition_penalty", SamplingNumber<&v1::Sampling::set_repetition_penalty>},
      {"top_k",
       [](const Json& value, const String& param, Parse& it) -> Status {
         FACET_ASSIGN_OR_RETURN(const int32_t top_k, ReadInt(value, param));
         // -1 means off to other servers.
         it.result.request.sampling.set_top_k(top_k == -1 ? 0 : top_k);
         return absl::OkStatus();
       }},
      {"seed",
       [](const Json& value, const String& param, Parse& it) -> Status {
         if (!value.is_number_integer()) return Wrong(param, "must be an integer");
         it.result.request.sampling.set_seed(value.is_number_unsigned()
                                                 ? value.get<uint64_t>()
                                                 : static_cast<uint64_t>(value.get<int64_t>()));
         return absl::OkStatus();
       }},
      {"logit_bias", [](const Json& value, const String&,
                        Parse& it) { return ReadLogitBias(value, it.result.request.sampling); }},
      {"stop", [](const Json& value, const String&,
                  Parse& it) { return ReadStop(value, it.result.request.limits); }},
      {"stop_token_ids",
       [](const Json& value, const String& param, Parse& it) -> Status {
         if (!value.is_array()) return Wrong(param, "must be an array of token ids");
         for (const Json& item : value) {
           FACET_ASSIGN_OR_RETURN(const int32_t token_id, ReadInt(item, param));
           it.result.request.limits.add_stop_token_ids(token_id);
         }
         return absl::OkStatus();
       }},
      {"ignore_eos",
       [](const Json& value, const String& param, Parse& it) -> Status {
         FACET_ASSIGN_OR_RETURN(const bool ignore, ReadBool(value, param));
         it.result.request.limits.set_ignore_eos(ignore);
         return absl::OkStatus();
       }},
      {"max_tokens", ReadNewTokensMax},
      {"max_completion_tokens", ReadNewTokensMax},
      {"min_tokens",
       [](const Json& value, const String& param, Parse& it) -> Status {
         FACET_ASSIGN_OR_RETURN(const int32_t tokens, ReadInt(value, param));
         it.result.request.limits.set_new_tokens_min(tokens);
         return absl::OkStatus();
       }},
      {"n",
       [](const Json& value, const String& param, Parse&) -> Status {
         return value == 1 ? absl::OkStatus() : NotServed(param, "1 is");
       }},
      {"stream",
       [](const Json& value, const String& param, Parse& it) -> Status {
         FACET_ASSIGN_OR_RETURN(it.result.stream, ReadBool(value, param));
         return absl::OkStatus();
       }},
      {"stream_options", [](const Json& value, const String&,
                            Parse& it) { return ReadStreamOptions(value, it.result); }},
      {"logprobs",
       [](const Json& value, const String& param, Parse& it) -> Status {
         FACET_ASSIGN_OR_RETURN(it.result.logprobs, ReadBool(value, param));
         return absl::OkStatus();
       }},
      {"top_logprobs",
       [](const Json& value, const String& param, Parse& it) -> Status {
         FACET_ASSIGN_OR_RETURN(it.top_logprobs, ReadInt(value, param));
         constexpr int kTopMax = 19;  // And the chosen token.
         if (it.top_logprobs >= 0 && it.top_logprobs <= kTopMax) return absl::OkStatus();
         return Wrong(param, "is ", it.top_logprobs, "; it must be from 0 to ", kTopMax);
       }},
      {"response_format",
       [](const Json& value, const String& param, Parse&) -> Status {
         if (value.is_object() && value.size() == 1 && value.value("type", "") == "text") {
           return absl::OkStatus();
         }
         return NotServed(param, "{\"type\": \"text\"} is");
       }},
      {"reasoning_effort",
       [](const Json& value, const String& param, Parse& it) -> Status {
         FACET_ASSIGN_OR_RETURN(const String effort, ReadString(value, param));
         it.conversation.enable_thinking = effort != "none";
         return absl::OkStatus();
       }},
      {"chat_template_kwargs",
       [](const Json& value, const String&, Parse& it) {
         return ReadTemplateArguments(value, it.conversation);
       }},
  };
  return *kReaders;
}

const char* FinishName(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_TOOL_CALLS:
      return "tool_calls";
    default:
      return "stop";
  }
}

OrderedJson UsageJson(const v1::Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens()},
          {"completion_tokens", usage.completion_tokens()},
          {"total_tokens", usage.prompt_tokens() + usage.completion_tokens()},
          {"completion_tokens_details", {{"reasoning_tokens", usage.thinking_tokens()}}},
          {"cost_usd", usage.cost_usd()},
          {"cost_nano_usd", usage.cost_nano_usd()},
          {"queue_ms", usage.queue_ms()},
          {"ttft_ms", usage.ttft_ms()},
          {"tpot_ms", usage.tpot_ms()}};
}

OrderedJson ModelJson(const v1::ModelInfo& model, int64_t created_s) {
  return {{"id", model.name()},
          {"object", "model"},
          {"created", created_s},
          {"owned_by", "facet"},
          {"max_model_len", model.context_tokens_max()}};
}

// Admission names the fields of inference.proto; clients of this API know them by other names.
std::string ParamOf(const std::string& field) {
  if (field == "limits.new_tokens_max") return "max_completion_tokens";
  if (field == "limits.new_tokens_min") return "min_tokens";
  if (field == "prompt") return "messages";
  for (const std::string_view prefix : {"sampling.", "limits."}) {
    if (field.starts_with(prefix)) return field.substr(prefix.size());
  }
  return field;
}

}  // namespace

StatusOr<OpenAiRequest> ParseChatCompletion(std::string_view body) {
  FACET_ASSIGN_OR_RETURN(const OrderedJson root, ParseBoundedJson(body));
  if (!root.is_object()) return InvalidArgument("the body must be a JSON object");
  Parse it;
  for (const auto& [param, value] : root.items()) {
    const auto reader = Readers().find(param);
    if (reader == Readers().end()) {
      return WithReason(Wrong(param, "is not a parameter that is served"), "UNKNOWN_PARAMETER");
    }
    if (!value.is_null()) FACET_RETURN_IF_ERROR(reader->second(value, param, it));
  }
  if (it.conversation.messages.empty()) return Wrong("messages", "is missing or empty");
  if (it.result.request.model.empty()) return Wrong("model", "is missing");
  if (it.top_logprobs > 0 && !it.result.logprobs) return Wrong("top_logprobs", "needs logprobs");
  if (it.tools_off) it.conversation.tools.clear();
  if (it.result.logprobs) it.result.request.logprobs = it.top_logprobs + 1;
  it.result.request.prompt = std::move(it.conversation);
  return std::move(it.result);
}

OrderedJson OpenAiAnswer::Frame(const char* object) const {
  return {
      {"id", "chatcmpl-" + id_}, {"object", object}, {"created", created_s_}, {"model", model_}};
}

OrderedJson OpenAiAnswer::ChunkWith(OrderedJson delta, OrderedJson finish_reason) const {
  OrderedJson chunk = Frame("chat.completion.chunk");
  OrderedJson choice = {{"index", 0},
                        {"delta", std::move(delta)},
                        {"logprobs", nullptr},
                        {"finish_reason", std::move(finish_reason)}};
  chunk["choices"] = OrderedJson::array({std::move(choice)});
  return chunk;
}

std::optional<std::string> OpenAiAnswer::Chunk(const AnswerEvent& event) {
  switch (event.event_case()) {
    case AnswerEvent::kAccepted:
      model_ = event.accepted().model();
      return Dump(ChunkWith({{"role", "assistant"}, {"content", ""}}, nullptr));
    case AnswerEvent::kText:
    case AnswerEvent::kThought: {
      const bool is_text = event.has_text();
      const v1::TextDelta& delta = is_text ? event.text() : event.thought();
      const bool with_logprobs = logprobs_ && delta.logprobs_size() > 0;
      if (delta.text().empty() && !with_logprobs) return std::nullopt;
      OrderedJson chunk = ChunkWith({{is_text ? "content" : "reasoning", delta.text()}}, nullptr);
      if (with_logprobs) {
        chunk["choices"][0]["logprobs"] = {{"content", LogprobsOf(delta)}};
      }
      return Dump(chunk);
    }
    case AnswerEvent::kToolCall: {
      OrderedJson call = ToolCallJson(event.tool_call());
      call["index"] = tool_calls_ - 1;
      return Dump(ChunkWith({{"tool_calls", OrderedJson::array({std::move(call)})}}, nullptr));
    }
    case AnswerEvent::kFinished:
      finished_ = event.finished();
      return Dump(ChunkWith(OrderedJson::object(), FinishName(finished_.reason())));
    default:
      return std::nullopt;
  }
}

std::string OpenAiAnswer::UsageChunk() const {
  OrderedJson chunk = Frame("chat.completion.chunk");
  chunk["choices"] = OrderedJson::array();
  chunk["usage"] = UsageJson(finished_.usage());
  return Dump(chunk);
}

void OpenAiAnswer::Collect(const AnswerEvent& event) {
  if (event.has_accepted()) model_ = event.accepted().model();
  if (event.has_text()) content_ += event.text().text();
  if (event.has_thought()) reasoning_ += event.thought().text();
  if (event.has_tool_call()) collected_calls_.push_back(ToolCallJson(event.tool_call()));
  if (event.has_finished()) finished_ = event.finished();
  if (logprobs_ && (event.has_text() || event.has_thought())) {
    for (OrderedJson& token : LogprobsOf(event.has_text() ? event.text() : event.thought())) {
      collected_logprobs_.push_back(std::move(token));
    }
  }
}

std::string OpenAiAnswer::Completion() const {
  OrderedJson message = {{"role", "assistant"}, {"content", content_}};
  if (!reasoning_.empty()) message["reasoning"] = reasoning_;
  if (!collected_calls_.empty()) {
    message["tool_calls"] = collected_calls_;
    if (content_.empty()) message["content"] = nullptr;
  }
  OrderedJson choice = {{"index", 0},
                        {"message", std::move(message)},
                        {"logprobs", nullptr},
                        {"finish_reason", FinishName(finished_.reason())}};
  if (logprobs_) choice["logprobs"] = {{"content", collected_logprobs_}};
  OrderedJson body = Frame("chat.completion");
  body["choices"] = OrderedJson::array({std::move(choice)});
  body["usage"] = UsageJson(finished_.usage());
  return Dump(body);
}

OrderedJson OpenAiAnswer::ToolCallJson(const v1::ToolCall& call) {
  const std::string id = call.id().empty() ? StrCat("call_", id_, "_", tool_calls_) : call.id();
  ++tool_calls_;
  return {{"id", id},
          {"type", "function"},
          {"function", {{"name", call.name()}, {"arguments", call.arguments_json()}}}};
}

OrderedJson OpenAiAnswer::TokenJson(int32_t token_id, float logprob) const {
  // A token may be part of a character: `bytes` is exact, `token` is what can be shown.
  std::vector<int> bytes;
  std::string text;
  if (tokenizer_ != nullptr) {
    for (const char c : tokenizer_->Bytes(token_id)) bytes.push_back(static_cast<uint8_t>(c));
    text = tokenizer_->Decode(std::span(&token_id, 1));
  }
  return {{"token", text}, {"logprob", logprob}, {"bytes", bytes}};
}

OrderedJson OpenAiAnswer::LogprobsOf(const v1::TextDelta& delta) const {
  OrderedJson content = OrderedJson::array();
  for (int i = 0; i < delta.logprobs_size() && i < delta.token_ids_size(); ++i) {
    OrderedJson token = TokenJson(delta.token_ids(i), delta.logprobs(i).logprob());
    OrderedJson top = OrderedJson::array();
    for (const v1::TopLogprob& other : delta.logprobs(i).top()) {
      top.push_back(TokenJson(other.token_id(), other.logprob()));
    }
    token["top_logprobs"] = std::move(top);
    content.push_back(std::move(token));
  }
  return content;
}

std::string ModelsBody(const v1::ListModelsResponse& models, int64_t created_s) {
  OrderedJson data = OrderedJson::array();
  for (const v1::ModelInfo& model : models.models()) data.push_back(ModelJson(model, created_s));
  return Dump({{"object", "list"}, {"data", std::move(data)}});
}

std::string ModelBody(const v1::ModelInfo& model, int64_t created_s) {
  return Dump(ModelJson(model, created_s));
}

int HttpStatusOf(const Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kCancelled:
      return 499;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

std::string ErrorBody(const Status& status) {
  const int http = HttpStatusOf(status);
  const char* type = "server_error";
  if (http == 429) {
    type = "rate_limit_error";
  } else if (http >= 400 && http < 500) {
    type = "invalid_request_error";
  }
  std::string code = ReasonOf(status);
  if (code.empty()) code = CodeName(status.code());
  std::transform(code.begin(), code.end(), code.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  const std::string field = FieldOf(status);
  const std::string param = ParamOf(field);
  std::string message = MessageOf(status);
  if (message.starts_with(field)) message.replace(0, field.size(), param);
  return Dump({{"error",
                {{"message", message},
                 {"type", type},
                 {"param", param.empty() ? OrderedJson(nullptr) : OrderedJson(param)},
                 {"code", code}}}});
}

}  // namespace facet::router
