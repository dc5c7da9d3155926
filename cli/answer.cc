#include "cli/answer.h"

#include <google/protobuf/util/json_util.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "base/status.h"
#include "cli/terminal.h"

namespace facet {
namespace {

using OrderedJson = nlohmann::ordered_json;

OrderedJson ToolCallJson(const v1::ToolCall& call) {
  std::string arguments;
  // A Struct always has a JSON form.
  (void)google::protobuf::util::MessageToJsonString(call.arguments(), &arguments);
  return OrderedJson{
      {"id", call.id()},
      {"name", call.name()},
      {"arguments", OrderedJson::parse(arguments, nullptr, /*allow_exceptions=*/false)}};
}

}  // namespace

void Answer::AddTokens(const google::protobuf::RepeatedField<int32_t>& ids) {
  token_ids_.insert(token_ids_.end(), ids.begin(), ids.end());
}

void Answer::Add(const v1::ChatResponse& event) {
  switch (event.event_case()) {
    case v1::ChatResponse::kAccepted:
      accepted_ = event.accepted();
      return;
    case v1::ChatResponse::kText:
      text_ += event.text().text();
      AddTokens(event.text().token_ids());
      return;
    case v1::ChatResponse::kThought:
      thought_ += event.thought().text();
      AddTokens(event.thought().token_ids());
      return;
    case v1::ChatResponse::kToolCall:
      tool_calls_.push_back(event.tool_call());
      return;
    case v1::ChatResponse::kFinished:
      finished_ = event.finished();
      AddTokens(finished_.token_ids());
      return;
    case v1::ChatResponse::EVENT_NOT_SET:
      return;
  }
}

void Answer::Add(const v1::GenerateResponse& event) {
  switch (event.event_case()) {
    case v1::GenerateResponse::kAccepted:
      accepted_ = event.accepted();
      return;
    case v1::GenerateResponse::kText:
      text_ += event.text().text();
      AddTokens(event.text().token_ids());
      return;
    case v1::GenerateResponse::kFinished:
      finished_ = event.finished();
      AddTokens(finished_.token_ids());
      return;
    case v1::GenerateResponse::EVENT_NOT_SET:
      return;
  }
}

std::string Answer::Json() const {
  const v1::Usage& usage = finished_.usage();
  OrderedJson json{{"request_id", accepted_.request_id()},
                   {"model", accepted_.model()},
                   {"text", text_},
                   {"token_ids", token_ids_},
                   {"finish_reason", FinishReasonName(finished_.reason())},
                   {"usage",
                    {{"prompt_tokens", usage.prompt_tokens()},
                     {"completion_tokens", usage.completion_tokens()},
                     {"thinking_tokens", usage.thinking_tokens()},
                     {"cost_usd", usage.cost_usd()}}},
                   {"timing",
                    {{"queue_ms", usage.queue_ms()},
                     {"ttft_ms", usage.ttft_ms()},
                     {"tpot_ms", usage.tpot_ms()},
                     {"total_ms", usage.total_ms()}}},
                   {"seed", accepted_.seed()},
                   {"worker", accepted_.worker()},
                   {"numerics_id", accepted_.numerics_id()}};
  if (!thought_.empty()) json["thought"] = thought_;
  if (!tool_calls_.empty()) {
    OrderedJson calls = OrderedJson::array();
    for (const v1::ToolCall& call : tool_calls_) calls.push_back(ToolCallJson(call));
    json["tool_calls"] = calls;
  }
  // The server sends valid UTF-8; anything else is replaced rather than thrown at the user.
  return json.dump(2, ' ', /*ensure_ascii=*/false, OrderedJson::error_handler_t::replace);
}

std::string Answer::Summary() const {
  const v1::Usage& usage = finished_.usage();
  std::string speed;
  if (usage.tpot_ms() > 0) speed = FixedText(1000 / usage.tpot_ms(), 1) + " tok/s · ";
  return StrCat("TTFT ", FixedText(usage.ttft_ms(), 0), " ms · ", speed, usage.prompt_tokens(),
                " + ", usage.completion_tokens(), " tokens · ", DollarText(usage.cost_usd()));
}

std::string FinishReasonName(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_TOOL_CALLS:
      return "tool_calls";
    default:
      return "unknown";
  }
}

void SamplingFlags::AddTo(CLI::App& command) {
  command.add_option("--max-tokens", max_tokens, "New tokens at most (default: the router's)");
  command.add_option("--temperature", temperature, "0 to 2; 0 is greedy (default: the model's)");
  command.add_option("--top-p", top_p, "Above 0 to 1; 1 keeps all");
  command.add_option("--top-k", top_k, "From 0; 0 keeps all");
  command.add_option("--seed", seed, "The same seed gives the same tokens (default: drawn)");
}

v1::Sampling SamplingFlags::Sampling() const {
  v1::Sampling sampling;
  if (temperature) sampling.set_temperature(*temperature);
  if (top_p) sampling.set_top_p(*top_p);
  if (top_k) sampling.set_top_k(*top_k);
  if (seed) sampling.set_seed(*seed);
  return sampling;
}

v1::Limits SamplingFlags::Limits() const {
  v1::Limits limits;
  if (max_tokens) limits.set_new_tokens_max(*max_tokens);
  return limits;
}

}  // namespace facet
