// facet up: a whole cluster on this machine, in the foreground.
#pragma once

#include <CLI/CLI.hpp>

namespace facet {

void AddUpCommand(CLI::App& app);

}  // namespace facet
