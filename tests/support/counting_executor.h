// An executor without a model: the token after position p is p % 1000, so that a test knows every
// answer and notices a lost, doubled or reordered step. Steps take no time unless device_ns says
// so.
#pragma once

#include <deque>
#include <map>

#include "worker/executor/executor.h"

namespace facet::test {

class CountingExecutor final : public worker::Executor {
 public:
  struct Options {
    int64_t num_slabs = 64;
    int32_t window = 32;
    int32_t running_max = 8;
    int32_t step_tokens_max = 64;
    int64_t device_ns = 1000;
    int64_t bad_position = -1;  // Logits for the token at this position are not finite.
    int64_t fail_step = -1;     // This step, counted from 1, and what is submitted with it fails.
  };

  explicit CountingExecutor(const Options& options) : options_(options) {
    info_.kv = {
        .slab_bytes = 128,
        .num_slabs = static_cast<int32_t>(options.num_slabs),
        .geometries = {worker::KvLayout::Geometry{
                           .block_bytes = 64, .blocks_per_slab = 2, .window = options.window},
                       worker::KvLayout::Geometry{.block_bytes = 32, .blocks_per_slab = 4}}};
    info_.vocab = 1000;
    info_.context_tokens_max = 100'000;
    info_.running_max = options.running_max;
    info_.step_tokens_max = options.step_tokens_max;
  }

  const worker::ExecutorInfo& info() const override { return info_; }

  worker::Ticket Submit(const worker::StepBatch& batch) override {
    FACET_CHECK_LT(results_.size(), 2U);
    worker::StepResult result;
    result.device_ns = options_.device_ns;
    for (const worker::BatchRow& row : batch.rows) {
      CheckRow(batch, row);
      const int64_t position = row.first_position + row.num_tokens;
      worker::RowResult one;
      if (row.sample) {
        one.finite = position != options_.bad_position;
        one.token = one.finite ? static_cast<int32_t>(position % 1000) : -1;
      }
      result.rows.push_back(one);
    }
    ++num_steps_;
    if (num_steps_ == options_.fail_step || num_steps_ == options_.fail_step + 1) {
      result = {};
      result.status = Unavailable("rank 1 is gone");
    }
    if (batch.return_expert_choices) result.expert_choices = {num_steps_, 2 * num_steps_};
    results_.push_back(std::move(result));
    return num_steps_;
  }

  void ProvideMask(worker::Ticket, int32_t, std::span<const uint32_t>) override {}

  worker::StepResult Await(worker::Ticket) override {
    worker::StepResult result = std::move(results_.front());
    results_.pop_front();
    return result;
  }

  int64_t num_steps() const { return num_steps_; }

 private:
  // Every position that the row reads or writes must have a block, and positions go on without gap.
  void CheckRow(const worker::StepBatch& batch, const worker::BatchRow& row) {
    FACET_CHECK(row.first_token + row.num_tokens <= batch.num_tokens());
    for (const worker::KvGeometry geometry : worker::kKvGeometries) {
      const worker::BlockTable& table = row.tables[static_cast<int>(geometry)];
      const int64_t window = info_.kv.of(geometry).window;
      const int64_t oldest =
          window == 0 ? 0 : std::max<int64_t>(0, row.first_position - window + 1);
      FACET_CHECK_LE(table.first_block, oldest / 16);
      FACET_CHECK_GT(table.first_block + static_cast<int64_t>(table.blocks.size()),
                     (row.first_position + row.num_tokens - 1) / 16);
    }
    if (row.slot_state.has_value()) next_position_[row.slot] = 0;
    FACET_CHECK_EQ(row.first_position, next_position_[row.slot]);
    next_position_[row.slot] += row.num_tokens;
  }

  const Options options_;
  worker::ExecutorInfo info_;
  std::deque<worker::StepResult> results_;
  std::map<int32_t, int64_t> next_position_;
  int64_t num_steps_ = 0;
};

}  // namespace facet::test
