// Workers for tests of the router. ScriptedWorker is a WorkerService in this process, served by
// gRPC on a port of its own; its tokens follow a script, and it takes orders to misbehave.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "facet/worker/v1/worker.pb.h"

namespace facet::testing {

class ScriptedWorker {
 public:
  struct Options {
    worker::v1::DescribeResponse describe;
    // The generated tokens of a request, in order; the last one counts as a stop token unless
    // new_tokens_max comes first. Empty: echoes the prompt's ids.
    std::function<std::vector<int32_t>(const worker::v1::Submit&)> tokens;
    uint64_t sequence_credits = 64;     // Free places; given back when a request ends.
    uint64_t prefill_credits = 65'536;  // Likewise.
    int64_t token_ms = 0;               // Between two steps; 0 sends as fast as it can.
    int64_t prefill_ns = 1000;          // Charged for each prompt, with 10 nano-USD per token.
    int32_t hold_after = -1;            // Stop stepping after so many tokens of each request.
  };

  explicit ScriptedWorker(Options options);
  ~ScriptedWorker();

  std::string address() const;

  // Cuts all connections at once, as a killed process does.
  void Kill();

  // What it was asked so far.
  std::vector<worker::v1::Submit> submits() const;
  std::vector<worker::v1::Cancel> cancels() const;

  // Waits until something was cancelled.
  void AwaitCancel() const;

  struct State;

 private:
  std::unique_ptr<State> state_;
};

}  // namespace facet::testing
