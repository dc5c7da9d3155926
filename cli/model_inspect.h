// What a model directory holds and what it will cost to serve.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "cli/terminal.h"
#include "worker/model/gemma4_config.h"

namespace facet {

struct ModelPart {
  std::string name;  // "embedding", "attention", …
  int64_t parameters = 0;
};

struct KvCost {
  int64_t tokens = 0;
  int64_t bytes = 0;  // Of one sequence, bfloat16.
};

struct ModelReport {
  std::string directory;
  worker::Gemma4Config config;
  std::vector<ModelPart> parts;  // As the config calls for them.
  int64_t parameters = 0;
  int64_t parameters_active = 0;  // Multiplied for one token: experts that are chosen, no tables.
  std::map<std::string, int64_t> bytes_by_dtype;  // Of all stored tensors.
  int64_t tensors_stored = 0;
  int64_t tensors_unused = 0;  // Stored, but not part of the text model.
  std::vector<KvCost> kv;
  std::vector<std::string> warnings;

  bool servable = true;  // False if a warning says why no worker can load it.
};

// An error only if config.json itself cannot be used; whatever else is missing is a warning.
StatusOr<ModelReport> InspectModel(const std::string& directory);

std::string ReportText(const ModelReport& report, const Paint& paint);
std::string ReportJson(const ModelReport& report);

}  // namespace facet
