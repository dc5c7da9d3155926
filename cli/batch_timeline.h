// When the tokens of requests that were submitted together came, and what of that is decode.
//
//   submit ── prefill ── every request has its first token ── decode ── the first one ends ── tail
//
// The scheduler mixes: while long prompts wait for their turn, requests that came first decode
// already, and they end first. Decode is what lies between: each of its steps has a token of each
// request. What early requests decode before belongs to prefill's time and to nothing that is
// counted.
#pragma once

#include <cstdint>

#include "worker/engine/step_frame.h"
#include "worker/model/model_work.h"

namespace facet {

class BatchTimeline {
 public:
  // What decode steps did; nothing if a request ended before the last one had its first token.
  struct Decode {
    int64_t ns = 0;
    int64_t num_steps = 0;
    int64_t num_tokens = 0;
    double bytes = 0;  // Weights, keys and values that the steps read, as the metrics of MBU count.
  };

  // Of so many requests with prompts of that length.
  BatchTimeline(int num_requests, int num_prompt_tokens, const worker::ModelWork& work)
      : num_requests_(num_requests), num_prompt_tokens_(num_prompt_tokens), work_(work) {}

  // The frame of one step, which came at now_ns.
  void Add(const worker::StepFrame& frame, int64_t now_ns);

  int64_t first_ns() const { return first_ns_; }  // Of the first token of all.

  int64_t all_started_ns() const { return all_started_ns_; }  // 0: not yet.

  int64_t last_ns() const { return last_ns_; }

  int64_t num_tokens() const { return num_tokens_; }

  const Decode& decode() const { return decode_; }

 private:
  void AddDecodeStep(const worker::StepFrame& frame, int64_t now_ns);

  const int num_requests_;
  const int num_prompt_tokens_;
  const worker::ModelWork work_;
  int num_started_ = 0;
  bool any_ended_ = false;
  int64_t first_ns_ = 0;
  int64_t all_started_ns_ = 0;
  int64_t last_ns_ = 0;
  int64_t num_tokens_ = 0;
  Decode decode_;
};

}  // namespace facet
