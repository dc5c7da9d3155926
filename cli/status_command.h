// facet status: the cluster's workers, their health and load.
#pragma once

#include <CLI/CLI.hpp>

namespace facet {

void AddStatusCommand(CLI::App& app);

}  // namespace facet
