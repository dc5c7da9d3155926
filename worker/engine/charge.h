// Who pays for a step: its device time and what that cost are divided among its chunks by weight,
// to the nanosecond and the nano-USD.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/engine/step_model.h"
#include "worker/engine/step_plan.h"
#include "worker/model/model_work.h"

namespace facet::worker {

// Device time and its price.
struct Spent {
  int64_t ns = 0;
  int64_t nano_usd = 0;

  Spent& operator+=(const Spent& other) {
    ns += other.ns;
    nano_usd += other.nano_usd;
    return *this;
  }

  Spent& operator-=(const Spent& other) {
    ns -= other.ns;
    nano_usd -= other.nano_usd;
    return *this;
  }

  bool operator==(const Spent&) const = default;
};

// What a rank's sequences pay for a step that ranks shared: of the time of as many devices as
// there are ranks, all taken to be this one's, the part that is their weight's of all; rounded
// down. So sequences pay alike for their work wherever they are, and for a rank's wait as for its
// work.
Spent PartOfGroup(const Spent& spent, int64_t weight, int64_t group_weight, int32_t num_ranks);

// What one chunk of a plan pays.
struct Charge {
  bool is_decode = false;  // Else it was prefill.
  Spent spent;
  int64_t recomputed_ns = 0;  // Part of spent.ns: work done before and lost by preemption.
  int64_t replayed_ns = 0;    // The same, lost with another worker.
};

// Whether a chunk goes on from generated tokens, one at a time; everything else is prefill.
bool IsDecode(const PlannedChunk& chunk);

// A plan's chunks by their shape.
std::vector<StepRow> StepRowsOf(const StepPlan& plan);

// What a step's rows ask of the device, by phase. Weights are read once for the whole step and
// divided among its tokens.
struct PhaseWork {
  Work prefill;
  Work decode;
};

PhaseWork WorkOf(std::span<const StepRow> rows, const ModelWork& model);

// total × weight / Σ weights, rounded so that the sum is total: by largest remainder, ties to the
// earlier one. total is not negative; weights are not all 0.
std::vector<int64_t> Divide(int64_t total, std::span<const uint64_t> weights);

// The charges of a plan's chunks, whose sum is spent. One weight for each chunk.
std::vector<Charge> ChargeStep(const StepPlan& plan,
                               std::span<const uint64_t> weights,
                               const Spent& spent);

}  // namespace facet::worker
