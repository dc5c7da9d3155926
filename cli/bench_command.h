// facet bench engine: how fast the engine runs a model on this machine, without network or
// tokenizer.
#pragma once

#include <CLI/CLI.hpp>

namespace facet {

void AddBenchCommand(CLI::App& app);

}  // namespace facet
