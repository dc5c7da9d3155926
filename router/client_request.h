// The one request type behind both fronts: what a client asked for, not yet checked.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "facet/v1/inference.pb.h"
#include "text/conversation.h"

namespace facet::router {

// Text to tokenize as it stands.
struct TextPrompt {
  std::string text;
};

// Token ids to take as they are.
struct TokenPrompt {
  std::vector<int32_t> ids;
};

struct ClientRequest {
  std::string model;                                           // Empty: the only one served.
  std::variant<Conversation, TextPrompt, TokenPrompt> prompt;  // Messages are rendered first.
  v1::Sampling sampling;
  v1::Limits limits;
  int32_t logprobs = 0;
  std::string client_request_id;
  std::string tenant = "default";
  int64_t arrival_ns = 0;              // On the router's clock.
  std::optional<int64_t> deadline_ns;  // On the router's clock; absent: the default.
};

}  // namespace facet::router
