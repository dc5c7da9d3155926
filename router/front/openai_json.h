// The OpenAI API's JSON: bodies to ClientRequest, answers to bodies. Pure.
//
// A parameter that is not served is refused by its name, never ignored; null counts as absent.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "facet/v1/inference.pb.h"
#include "router/answer_stream.h"
#include "router/client_request.h"
#include "text/tokenizer.h"

namespace facet::router {

// A POST to /v1/chat/completions.
struct OpenAiRequest {
  ClientRequest request;
  bool stream = false;
  bool include_usage =
      false;  // A last chunk with usage; answers that are no stream always have it.
  bool logprobs = false;
};

// INVALID_ARGUMENT with the parameter as field.
StatusOr<OpenAiRequest> ParseChatCompletion(std::string_view body);

// An answer on its way to JSON: chunks of a stream, or one completion at the end.
class OpenAiAnswer {
 public:
  // tokenizer names tokens in logprobs; nullptr is allowed if none are asked for.
  OpenAiAnswer(std::string id, int64_t created_s, bool logprobs, const Tokenizer* tokenizer)
      : id_(std::move(id)), created_s_(created_s), logprobs_(logprobs), tokenizer_(tokenizer) {}

  // For a stream: the JSON of the chunk that the event makes, if any.
  std::optional<std::string> Chunk(const AnswerEvent& event);
  // The chunk with usage; after the finished event.
  std::string UsageChunk() const;

  // For one completion: collects the event; then the whole body.
  void Collect(const AnswerEvent& event);
  std::string Completion() const;

 private:
  OrderedJson Frame(const char* object) const;
  OrderedJson ChunkWith(OrderedJson delta, OrderedJson finish_reason) const;
  OrderedJson LogprobsOf(const v1::TextDelta& delta) const;
  OrderedJson TokenJson(int32_t token_id, float logprob) const;
  OrderedJson ToolCallJson(const v1::ToolCall& call);

  std::string id_;
  int64_t created_s_;
  bool logprobs_;
  const Tokenizer* tokenizer_;
  std::string model_;
  bool role_sent_ = false;
  int tool_calls_ = 0;
  v1::Finished finished_;
  // Of a completion.
  std::string content_;
  std::string reasoning_;
  OrderedJson collected_calls_ = OrderedJson::array();
  OrderedJson collected_logprobs_ = OrderedJson::array();
};

// The body of GET /v1/models, and of one of them.
std::string ModelsBody(const v1::ListModelsResponse& models, int64_t created_s);
std::string ModelBody(const v1::ModelInfo& model, int64_t created_s);

// {"error": {"message", "type", "param", "code"}}
std::string ErrorBody(const Status& status);

// The HTTP status of an error before an answer began.
int HttpStatusOf(const Status& status);

}  // namespace facet::router
