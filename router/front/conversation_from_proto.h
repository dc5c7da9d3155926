// facet.v1 messages and tools to the conversation that the chat template renders. Pure.
#pragma once

#include "base/status.h"
#include "facet/v1/inference.pb.h"
#include "text/conversation.h"

namespace facet::router {

// INVALID_ARGUMENT names the field: an unknown role, content missing where it must not.
StatusOr<Conversation> ConversationFromProto(const v1::ChatRequest& request);

}  // namespace facet::router
