// Who pays for a step: its device time is divided among its chunks by tokens, to the nanosecond.
#pragma once

#include <cstdint>
#include <vector>

#include "worker/engine/step_plan.h"

namespace facet::worker {

// What one chunk of a plan pays. Σ prefill_ns + decode_ns over a plan = the step's device_ns.
struct Charge {
  int64_t prefill_ns = 0;
  int64_t decode_ns = 0;
  int64_t recomputed_ns = 0;  // Part of the two: work done before and lost by preemption.
};

// Whether a chunk goes on from generated tokens, one at a time; everything else is prefill.
bool IsDecode(const PlannedChunk& chunk);

// Largest remainder; ties go to the earlier chunk.
std::vector<Charge> ChargeStep(const StepPlan& plan, int64_t device_ns);

// What device time costs, rounded down; exact sums come from charging differences of running
// totals.
int64_t CostNanoUsd(int64_t device_ns, double price_usd_per_hour);

}  // namespace facet::worker
