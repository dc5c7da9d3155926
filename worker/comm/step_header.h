// What the ranks of a group agree on before each step: that all are there, and what each brings.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

namespace facet::worker {

// Before the first step of a group of processes: every rank's data path is whole.
inline constexpr int64_t kConnectedStep = -1;

// So that the sum over ranks fits an integer.
inline constexpr int64_t kStepWeightMax = 10'000'000'000'000'000;

// What a rank brings to a step.
struct StepWish {
  int32_t num_tokens = 0;  // 0: it only takes part.
  int64_t weight = 0;      // Its part of the step's time, against the others'; kStepWeightMax.
  bool leaving = false;    // It wants no more steps.

  bool operator==(const StepWish&) const = default;
};

// What the step is for all.
struct StepHeader {
  int64_t step = 0;             // From 0 in each epoch.
  std::vector<StepWish> ranks;  // By rank.

  bool operator==(const StepHeader&) const = default;

  int32_t tokens_max() const {
    int32_t most = 0;
    for (const StepWish& wish : ranks) most = std::max(most, wish.num_tokens);
    return most;
  }

  // Of all ranks together.
  int64_t weight() const {
    int64_t sum = 0;
    for (const StepWish& wish : ranks) sum += wish.weight;
    return sum;
  }

  bool all_leaving() const {
    return !ranks.empty() &&
           std::all_of(ranks.begin(), ranks.end(), [](const StepWish& w) { return w.leaving; });
  }

  bool any_leaving() const {
    return std::any_of(ranks.begin(), ranks.end(), [](const StepWish& w) { return w.leaving; });
  }
};

// Collects the wishes for one step after another. Step n + 1 opens when Take has returned step n.
class StepRound {
 public:
  explicit StepRound(int32_t num_ranks, int64_t first_step = 0)
      : step_(first_step), wishes_(num_ranks) {}

  int64_t step() const { return step_; }

  bool IsReady(int32_t rank) const { return wishes_[rank].has_value(); }

  int32_t num_ready() const { return num_ready_; }

  bool complete() const { return num_ready_ == static_cast<int32_t>(wishes_.size()); }

  // Of a rank that is not ready yet.
  void SetReady(int32_t rank, const StepWish& wish) {
    wishes_[rank] = wish;
    ++num_ready_;
  }

  // The lowest rank that is not ready; -1: all are.
  int32_t FirstAbsent() const {
    const auto absent = std::find(wishes_.begin(), wishes_.end(), std::nullopt);
    return absent == wishes_.end() ? -1 : static_cast<int32_t>(absent - wishes_.begin());
  }

  // The header of a complete step; opens the next one.
  StepHeader Take() {
    StepHeader header = {.step = step_++};
    for (std::optional<StepWish>& wish : wishes_) {
      header.ranks.push_back(*wish);
      wish.reset();
    }
    num_ready_ = 0;
    return header;
  }

 private:
  int64_t step_;
  int32_t num_ready_ = 0;
  std::vector<std::optional<StepWish>> wishes_;
};

}  // namespace facet::worker
