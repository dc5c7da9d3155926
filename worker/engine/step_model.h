// How long a step takes, as a sum over its rows, and what part of it each row causes:
//
//   t = base + Σ prefill chunks (tokens × (token + token_context × context))
//            + Σ decode rows (row + context × context)
//
// A row's weight is its own term and an equal part of base: what its sequence pays for the step by.
// Sliding windows end the growth with context for most layers; the line is an average. That tokens
// of a step share experts is left out, too; tests/unit/worker/fairness_test.cc prints what that
// costs.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "worker/model/step_row.h"

namespace facet::worker {

// Nanoseconds, none of them negative.
struct StepModel {
  // By default a token is a token: for weights only.
  double base_ns = 0;
  double prefill_token_ns = 1;
  double prefill_token_context_ns = 0;  // For each token and each position that it sees.
  double decode_row_ns = 1;
  double decode_context_ns = 0;
  bool predicts = false;  // The times are those of this worker's device.

  // What the row adds to a step that there is anyway.
  double MarginalNs(const StepRow& row) const;

  // Of a step that has rows.
  double StepNs(std::span<const StepRow> rows) const;

  // In steps that hold nothing but one chunk of so many tokens from the beginning of a prompt.
  double PrefillTokensPerSecond(int32_t chunk_tokens) const;

  // In picoseconds, at least 1 each; the sum is StepNs, rounded.
  std::vector<uint64_t> Weights(std::span<const StepRow> rows) const;

  // As a pool's step_model in the config.
  std::string ToYaml() const;
};

// A step that was timed.
struct StepSample {
  std::vector<StepRow> rows;
  int64_t device_ns = 0;
};

struct StepFit {
  StepModel model;
  // Mean of |predicted - measured| / measured, each step predicted by a fit to all the others.
  double error_ratio = 0;
};

// Least squares of the relative error, no coefficient negative. FAILED_PRECONDITION: fewer than
// seven samples, or all of them are of one phase.
StatusOr<StepFit> FitStepModel(std::span<const StepSample> samples);

}  // namespace facet::worker
