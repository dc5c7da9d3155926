// facet model: inspect, synth and logits of a model directory. No server is needed.
#pragma once

#include <CLI/CLI.hpp>

namespace facet {

void AddModelCommand(CLI::App& app);

}  // namespace facet
