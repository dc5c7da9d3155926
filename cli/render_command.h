// facet render: conversations to the prompt text of a chat template.
#pragma once

#include <CLI/CLI.hpp>
#include <iosfwd>
#include <string>

#include "base/status.h"

namespace facet {

struct RenderOptions {
  std::string model_directory;  // Decides the template; or, where empty,
  std::string template_name;    // "small" or "large".
};

// One JSON object a line (messages, tools, enable_thinking, preserve_thinking,
// add_generation_prompt) to {"prompt": "..."}. A warning about the model's template goes to
// `notes`.
Status Render(const RenderOptions& options,
              std::istream& in,
              std::ostream& out,
              std::ostream& notes);

void AddRenderCommand(CLI::App& app);

}  // namespace facet
