// The logits of every position of a prompt, as a file that an oracle's can be held against.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace facet {

struct LogitsOptions {
  std::string model_directory;  // tokenizer.json is not needed.
  std::vector<int32_t> ids;
  std::string dtype = "bf16";  // Or "f32".
  int32_t chunk_tokens = 128;  // Prompt tokens in one step; changes speed and memory, not the bits.
  int32_t threads = 0;         // 0: all cores.
  std::string device;          // "cpu", "cuda" or "cuda:N".
  std::string cpu_tier;        // Empty: the best of this machine.
  std::string out_file;
};

// Token ids as written on a command line; the error names the one that is none.
StatusOr<std::vector<int32_t>> ParseIdList(const std::vector<std::string>& words);

// Runs the prompt as a worker would and writes little-endian float32 [ids, vocab].
Status WriteLogits(const LogitsOptions& options);

}  // namespace facet
