#include "router/admission/admission.h"

#include <algorithm>
#include <cmath>

#include "proto/grpc_status.h"
#include "text/utf8.h"

namespace facet::router {
namespace {

constexpr int kMessagesMax = 1024;
constexpr int kToolsMax = 128;
constexpr int kStopStringsMax = 16;
constexpr size_t kStopBytesMax = 256;
constexpr int kStopTokenIdsMax = 64;
constexpr size_t kLogitBiasMax = 300;
constexpr int kLogprobsMax = 20;
constexpr size_t kClientRequestIdBytesMax = 128;

template <typename... Parts>
Status Wrong(std::string_view field, const Parts&... parts) {
  return WithField(InvalidArgument(field, " ", parts...), field);
}

Status CheckUtf8(std::string_view field, std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = NextUtf8(text.substr(at));
    if (step.kind != Utf8Step::Kind::kCharacter) {
      return Wrong(field, "is not UTF-8 at byte ", at);
    }
    at += step.length;
  }
  return absl::OkStatus();
}

Status CheckConversation(const Conversation& conversation) {
  if (conversation.messages.empty()) return Wrong("messages", "is empty; at least 1 is needed");
  if (conversation.messages.size() > kMessagesMax) {
    return Wrong("messages", "has ", conversation.messages.size(), " entries; at most ",
                 kMessagesMax);
  }
  if (conversation.tools.size() > kToolsMax) {
    return Wrong("tools", "has ", conversation.tools.size(), " entries; at most ", kToolsMax);
  }
  for (size_t i = 0; i < conversation.messages.size(); ++i) {
    for (const ContentPart& part : conversation.messages[i].content.parts) {
      if (part.kind == ContentPart::Kind::kText) continue;
      return Wrong(StrCat("messages[", i, "].content"),
                   "has a part that is no text; only text is "
                   "served");
    }
  }
  return absl::OkStatus();
}

// Texts of a conversation are checked to be UTF-8 when they are tokenized.
Status CheckPrompt(const ServedModel& model, const ClientRequest& request) {
  if (const auto* conversation = std::get_if<Conversation>(&request.prompt)) {
    FACET_RETURN_IF_ERROR(CheckConversation(*conversation));
  } else if (const auto* text = std::get_if<TextPrompt>(&request.prompt)) {
    if (text->text.empty()) return Wrong("text", "is empty; at least one character is needed");
    FACET_RETURN_IF_ERROR(CheckUtf8("text", text->text));
  } else {
    const std::vector<int32_t>& ids = std::get<TokenPrompt>(request.prompt).ids;
    if (ids.empty()) return Wrong("ids", "is empty; at least one token is needed");
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] < 0 || ids[i] >= model.vocab) {
        return Wrong(StrCat("ids[", i, "]"), "is ", ids[i], "; it must be from 0 to ",
                     model.vocab - 1);
      }
    }
    return absl::OkStatus();
  }
  if (!model.tokenizer.has_value()) {
    return FailedPrecondition("model ", model.name, " has no tokenizer; send token ids");
  }
  return absl::OkStatus();
}

// What the client sent, or what the model's files say; in [min, max] or an error. open_min excludes
// min itself.
struct RangeCheck {
  std::string_view field;
  bool sent;
  float value;
  float fallback;
  float min;
  float max;
  bool open_min = false;
};

StatusOr<float> InRange(const RangeCheck& check) {
  if (!check.sent) return check.fallback;
  const bool above = check.open_min ? check.value > check.min : check.value >= check.min;
  if (!std::isfinite(check.value) || !above || check.value > check.max) {
    return Wrong(check.field, "is ", check.value, "; it must be ",
                 check.open_min ? "above " : "from ", check.min,
                 check.open_min ? " and at most " : " to ", check.max);
  }
  return check.value;
}

StatusOr<worker::v1::Sampling> CompleteSampling(const v1::Sampling& sent,
                                                const ServedModel& model,
                                                uint64_t fresh_seed) {
  const v1::Sampling& defaults = model.sampling_defaults;
  worker::v1::Sampling sampling;
#define FACET_SAMPLING_FIELD(name, minimum, maximum, open)                            \
  {                                                                                   \
    FACET_ASSIGN_OR_RETURN(const float checked, InRange({.field = "sampling." #name,  \
                                                         .sent = sent.has_##name(),   \
                                                         .value = sent.name(),        \
                                                         .fallback = defaults.name(), \
                                                         .min = (minimum),            \
                                                         .max = (maximum),            \
                                                         .open_min = (open)}));       \
    sampling.set_##name(checked);                                                     \
  }
  FACET_SAMPLING_FIELD(temperature, 0, 2, false)
  FACET_SAMPLING_FIELD(top_p, 0, 1, true)
  FACET_SAMPLING_FIELD(min_p, 0, 1, false)
  FACET_SAMPLING_FIELD(presence_penalty, -2, 2, false)
  FACET_SAMPLING_FIELD(frequency_penalty, -2, 2, false)
  FACET_SAMPLING_FIELD(repetition_penalty, 0, 2, true)
#undef FACET_SAMPLING_FIELD
  if (sent.has_top_k() && sent.top_k() < 0) {
    return Wrong("sampling.top_k", "is ", sent.top_k(), "; it must be at least 0, and 0 keeps all");
  }
  sampling.set_top_k(sent.has_top_k() ? sent.top_k() : defaults.top_k());
  sampling.set_seed(sent.has_seed() ? sent.seed() : fresh_seed);
  if (sent.logit_bias().size() > kLogitBiasMax) {
    return Wrong("sampling.logit_bias", "has ", sent.logit_bias().size(), " entries; at most ",
                 kLogitBiasMax);
  }
  for (const auto& [token_id, bias] : sent.logit_bias()) {
    if (token_id < 0 || token_id >= model.vocab) {
      return Wrong("sampling.logit_bias", "names token ", token_id, "; ids are from 0 to ",
                   model.vocab - 1);
    }
    if (!std::isfinite(bias) || bias < -100 || bias > 100) {
      return Wrong("sampling.logit_bias", "of token ", token_id, " is ", bias,
                   "; it must be from -100 to 100");
    }
    (*sampling.mutable_logit_bias())[token_id] = bias;
  }
  return sampling;
}

Status CompleteLimits(const v1::Limits& sent, Ticket& ticket) {
  if (sent.has_new_tokens_max() && sent.new_tokens_max() < 1) {
    return Wrong("limits.new_tokens_max", "is ", sent.new_tokens_max(), "; it must be at least 1");
  }
  ticket.new_tokens_max = sent.new_tokens_max();
  if (sent.new_tokens_min() < 0) {
    return Wrong("limits.new_tokens_min", "is ", sent.new_tokens_min(), "; it must be at least 0");
  }
  ticket.new_tokens_min = sent.new_tokens_min();
  if (sent.stop_size() > kStopStringsMax) {
    return Wrong("limits.stop", "has ", sent.stop_size(), " strings; at most ", kStopStringsMax);
  }
  for (const std::string& stop : sent.stop()) {
    if (stop.empty() || stop.size() > kStopBytesMax) {
      return Wrong("limits.stop", "has a string of ", stop.size(), " bytes; each has 1 to ",
                   kStopBytesMax);
    }
    FACET_RETURN_IF_ERROR(CheckUtf8("limits.stop", stop));
    ticket.stop.push_back(stop);
  }
  if (sent.stop_token_ids_size() > kStopTokenIdsMax) {
    return Wrong("limits.stop_token_ids", "has ", sent.stop_token_ids_size(), " ids; at most ",
                 kStopTokenIdsMax);
  }
  if (!sent.ignore_eos()) ticket.stop_token_ids = ticket.model->stop_token_ids;
  for (const int32_t token_id : sent.stop_token_ids()) {
    if (token_id < 0 || token_id >= ticket.model->vocab) {
      return Wrong("limits.stop_token_ids", "has ", token_id, "; ids are from 0 to ",
                   ticket.model->vocab - 1);
    }
    ticket.stop_token_ids.push_back(token_id);
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<const ServedModel*> FindModel(const std::string& name,
                                       const std::vector<ServedModel>& models) {
  if (name.empty() && models.size() == 1) return &models.front();
  std::string served;
  for (const ServedModel& model : models) {
    if (model.name == name) return &model;
    served += (served.empty() ? "" : ", ") + model.name;
  }
  if (name.empty()) return Wrong("model", "is missing; served are ", served);
  const bool printable = CheckUtf8("model", name).ok() && name.size() <= 128;
  return WithReason(WithField(NotFound("model ", printable ? StrCat("\"", name, "\"") : "",
                                       " is not served here; served are ", served),
                              "model"),
                    "MODEL_NOT_FOUND");
}

StatusOr<Ticket> Admit(const ClientRequest& request, const AdmissionContext& context) {
  Ticket ticket;
  FACET_ASSIGN_OR_RETURN(ticket.model, FindModel(request.model, context.models));
  ticket.deadline_ns =
      request.deadline_ns.value_or(request.arrival_ns + context.deadline_ms_default * 1'000'000);
  if (ticket.deadline_ns <= context.now_ns) {
    return absl::DeadlineExceededError("the deadline passed before the request was admitted");
  }
  FACET_RETURN_IF_ERROR(CheckPrompt(*ticket.model, request));
  FACET_ASSIGN_OR_RETURN(ticket.sampling,
                         CompleteSampling(request.sampling, *ticket.model, context.fresh_seed));
  FACET_RETURN_IF_ERROR(CompleteLimits(request.limits, ticket));
  if (request.logprobs < 0 || request.logprobs > kLogprobsMax) {
    return Wrong("logprobs", "is ", request.logprobs, "; it must be from 0 to ", kLogprobsMax);
  }
  ticket.logprobs = request.logprobs;
  if (request.client_request_id.size() > kClientRequestIdBytesMax) {
    return Wrong("client_request_id", "has ", request.client_request_id.size(), " bytes; at most ",
                 kClientRequestIdBytesMax);
  }
  FACET_RETURN_IF_ERROR(CheckUtf8("client_request_id", request.client_request_id));
  return ticket;
}

StatusOr<int32_t> FitContext(const Ticket& ticket,
                             const std::vector<int32_t>& prompt_ids,
                             int32_t context_tokens_max) {
  const auto prompt_tokens = static_cast<int64_t>(prompt_ids.size());
  const int64_t room = context_tokens_max - prompt_tokens;
  if (room < 1) {
    return WithReason(Wrong("prompt", "has ", prompt_tokens, " tokens; at most ",
                            context_tokens_max - 1, " fit before one new token"),
                      "CONTEXT_LENGTH_EXCEEDED");
  }
  if (ticket.new_tokens_max > room) {
    return WithReason(Wrong("limits.new_tokens_max", "is ", ticket.new_tokens_max, "; at most ",
                            room, " fit after a prompt of ", prompt_tokens),
                      "CONTEXT_LENGTH_EXCEEDED");
  }
  const auto fallback = static_cast<int32_t>(std::min<int64_t>(room, kNewTokensDefault));
  const int32_t new_tokens_max = ticket.new_tokens_max > 0 ? ticket.new_tokens_max : fallback;
  if (ticket.new_tokens_min > new_tokens_max) {
    return Wrong("limits.new_tokens_min", "is ", ticket.new_tokens_min,
                 "; new_tokens_max allows at most ", new_tokens_max);
  }
  return new_tokens_max;
}

}  // namespace facet::router
