// Logits of a whole prompt in one vector, by worker/engine/prompt_logits.h.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <span>
#include <vector>

#include "worker/engine/prompt_logits.h"

namespace facet::test {

// [ids, vocab]
inline std::vector<float> PromptLogits(worker::Executor& executor,
                                       const std::vector<int32_t>& ids,
                                       int32_t chunk_tokens) {
  std::vector<float> all;
  int chunks = 0;
  const Status status = worker::RunPromptLogits(
      executor, ids, chunk_tokens, [&](int64_t, std::span<const float> logits) {
        all.insert(all.end(), logits.begin(), logits.end());
        ++chunks;
      });
  EXPECT_TRUE(status.ok()) << status;
  // An implementation that ignores the chunk size would pass every comparison.
  EXPECT_EQ(chunks, (static_cast<int>(ids.size()) + chunk_tokens - 1) / chunk_tokens);
  return all;
}

}  // namespace facet::test
