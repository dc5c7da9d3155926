// facet generate: one prompt, one answer.
#pragma once

#include <CLI/CLI.hpp>

namespace facet {

void AddGenerateCommand(CLI::App& app);

}  // namespace facet
