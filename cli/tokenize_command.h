// facet tokenize: text to token ids and back, with the tokenizer of a model directory.
#pragma once

#include <CLI/CLI.hpp>
#include <iosfwd>
#include <string>

#include "base/status.h"

namespace facet {

struct TokenizeOptions {
  std::string model_directory;  // Holds tokenizer.json; nothing else is read but its config.
  bool decode = false;
};

// One JSON value a line: "text" to [ids], or with decode the other way.
Status Tokenize(const TokenizeOptions& options, std::istream& in, std::ostream& out);

void AddTokenizeCommand(CLI::App& app);

}  // namespace facet
