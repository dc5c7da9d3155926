// facet usage: what requests cost, from the ledgers.
#pragma once

#include <CLI/CLI.hpp>

namespace facet {

void AddUsageCommand(CLI::App& app);

}  // namespace facet
