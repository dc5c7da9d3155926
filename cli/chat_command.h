// facet chat: a conversation with a served model.
#pragma once

#include <CLI/CLI.hpp>

namespace facet {

void AddChatCommand(CLI::App& app);

}  // namespace facet
