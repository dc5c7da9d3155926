// Messages to the prompt text of Gemma 4, equal to what Google's chat templates of 2026-07-09 give
// under Jinja. Written natively: no template language runs in the server.
//
//   <bos>
//   <|turn>system\n  <|think|>\n  system text  <|tool>declaration:...<tool|>...  <turn|>\n
//   <|turn>user\n  text  <turn|>\n
//   <|turn>model\n  <|channel>thought\n...\n<channel|>  <|tool_call>call:...<tool_call|>
//                   <|tool_response>response:...<tool_response|>  text  <turn|>\n
//   <|turn>model\n                                     the generation prompt
//
// Two files were published. They differ in one place: with thinking off, the large models' template
// ends the generation prompt with an empty thought channel.
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"
#include "text/conversation.h"

namespace facet {

enum class TemplateVariant {
  kSmall,  // E2B, E4B: models with per-layer embeddings.
  kLarge,  // 26B-A4B, 31B.
};

// The whole prompt with its <bos>. InvalidArgument names the field of the conversation at fault.
//
// One deviation: a schema of parameters without a type counts as "object"; the template would
// leave its brace open.
StatusOr<std::string> RenderChat(const Conversation& conversation, TemplateVariant variant);

struct DetectedTemplate {
  TemplateVariant variant = TemplateVariant::kSmall;
  std::string warning = {};  // Empty if the template is the revision that RenderChat follows.
};

// Which of the two templates a model directory ships: chat_template.jinja, else chat_template in
// tokenizer_config.json. Where there is none or it is another revision, the variant is `by_shape`
// (small for models with per-layer embeddings) and the warning says so, because RenderChat may then
// differ from what the model was tuned with.
//
// The revision is told by what its text contains, not by a hash: the published files were not at
// hand when this was written. A copy with an edited body and the old header would pass.
DetectedTemplate DetectTemplate(const std::string& directory, TemplateVariant by_shape);

// The same for the text of a template.
DetectedTemplate DetectTemplateText(std::string_view jinja, TemplateVariant by_shape);

}  // namespace facet
