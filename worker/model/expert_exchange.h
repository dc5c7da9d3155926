// How a rank's tokens meet the experts of other ranks, layer by layer, and come back as sums.
//
//   SetCommunicator(&comm, timeout)          a group has formed; every rank calls it
//   BeginStep(rank_tokens_max, timeout)      every rank, with the same first value
//   for each layer (moe.cc), every rank, also one without tokens:
//     Dispatch → dense path while tokens travel → Receive → experts → Combine → layer's end
//   EndStep()                                before anything waits for the device
//
// Tokens travel in one of two forms (kernels/moe_exchange.h): all-to-all, to the ranks of their
// experts alone, or all-gather, to all. Both carry blocks of the step's largest rank and give equal
// bits; which one is quicker is measured when a communicator is given, at some numbers of tokens,
// and the ranks choose alike because they look at the slowest rank's times.
//
// Owns the buffers, which are as large as its largest step needs. One thread makes all calls, the
// one that drives the backend and the communicator. After an error the communicator is of no use;
// the exchange and the model go on with the next one.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "base/status.h"
#include "kernels/backend.h"
#include "worker/comm/communicator.h"
#include "worker/model/expert_share.h"
#include "worker/model/gemma4_config.h"

namespace facet::worker {

// Owns the memory. A row is a token of some rank: there are num_ranks * tokens_max.
struct ExchangeBuffers {
  using Allocate = std::function<kernels::Buffer(int64_t bytes)>;

  ExchangeBuffers(const Gemma4Config& config,
                  const ExpertShare& share,
                  kernels::DType dtype,
                  const Allocate& allocate,
                  int64_t rank_tokens_max);

  int64_t tokens_max;             // Of one rank in one step.
  kernels::Buffer send;           // A block for each rank, of MoePack
  kernels::Buffer recv;           // A block from each rank
  kernels::Buffer places;         // [tokens_max, num_ranks], i32
  kernels::Buffer rows;           // [rows, hidden]
  kernels::Buffer topk_ids;       // [rows, top_k], i32
  kernels::Buffer topk_weights;   // [rows, top_k], f32
  kernels::Buffer act;            // [rows, top_k, expert_intermediate]
  kernels::Buffer out;            // [rows, top_k, hidden]
  kernels::Buffer sums;           // [rows, slices of a rank, hidden], to each rank
  kernels::Buffer recv_sums;      // The same, from each rank
  kernels::Buffer expert_tokens;  // [num_experts], i64
};

// All ranks' tokens, as this rank's experts take them (MoeUnpack).
struct ExpertRows {
  kernels::TensorView hidden;        // [rows, hidden]
  kernels::TensorView topk_ids;      // [rows, top_k], i32: of this rank's experts, or -1
  kernels::TensorView topk_weights;  // [rows, top_k], f32
  kernels::TensorView act;           // [rows, top_k, expert_intermediate]: for MoeUp to write
  kernels::TensorView out;           // [rows, top_k, hidden]: for MoeDown to write
};

// What came back of this rank's tokens, for MoeCombineSlices.
struct ReceivedSums {
  kernels::ConstTensorView sums;
  kernels::ConstTensorView places;
  int64_t capacity = 0;
};

class ExpertExchange {
 public:
  struct Options {
    ExpertShare share;                         // Checked against the config.
    int64_t tokens_max = 0;                    // Of one rank in one step.
    std::optional<kernels::MoeDispatch> form;  // Instead of what is measured: tests, benches.
  };

  // The backend must outlive it.
  ExpertExchange(const Gemma4Config& config,
                 kernels::DType dtype,
                 kernels::Backend& backend,
                 const Options& options);

  // Uses this end of a group until the next call; null: none. It is of the share's rank and must
  // live as long. Measures the forms of dispatch, together with the other ranks; an error is the
  // communicator's, which is then not used.
  Status SetCommunicator(Communicator* communicator, absl::Duration timeout);

  // rank_tokens_max: the largest number of tokens of any rank, at least 1. The whole step's waiting
  // ends by the timeout. FAILED_PRECONDITION: no communicator; RESOURCE_EXHAUSTED: more tokens than
  // there is room for. Every rank then gets the same error and nothing has travelled.
  Status BeginStep(int64_t rank_tokens_max, absl::Duration timeout);

  // Of the step: tokens that a rank may have.
  int64_t capacity() const { return capacity_; }

  // Starts sending the tokens to the ranks of their experts; the views are not needed afterwards.
  Status Dispatch(const kernels::ConstTensorView& expert_in,
                  const kernels::ConstTensorView& topk_ids,
                  const kernels::ConstTensorView& topk_weights);

  // Waits for all ranks' tokens. DATA_LOSS if a rank sent a count that no block holds, where the
  // host can tell; the group ends then.
  StatusOr<ExpertRows> Receive();

  // Sums rows.out, sends the sums home and waits for those of this rank's tokens.
  StatusOr<ReceivedSums> Combine(const ExpertRows& rows);

  // Waits, where ops and transfers are enqueued, until all of the step have run or its timeout ends
  // the group: a device that waits for a rank which does not come would wait for ever.
  Status EndStep() { return Synchronize(); }

  // Which form dispatch takes at this capacity.
  kernels::MoeDispatch FormFor(int64_t capacity) const;

  // How often tokens of this rank chose each expert, over all layers and steps so far. Waits for
  // the device.
  std::vector<int64_t> ExpertTokens() const;

 private:
  // From this many tokens of a rank on, a form is best.
  struct Choice {
    int64_t capacity_min = 0;
    kernels::MoeDispatch form = kernels::MoeDispatch::kAllToAll;
  };

  // The form's choices, by what all ranks measure.
  Status Measure(absl::Duration timeout);
  // Of one dispatch of such blocks, whatever they hold.
  StatusOr<float> SecondsOf(kernels::MoeDispatch form, int64_t capacity);

  kernels::BlockLayout Layout() const;
  Status StartDispatch();
  Status Await();
  Status Synchronize();
  absl::Duration TimeLeft() const;
  Status CheckCounts() const;

  const Gemma4Config& config_;
  const kernels::DType dtype_;
  kernels::Backend& backend_;
  const ExpertShare share_;
  const std::optional<kernels::MoeDispatch> forced_form_;
  ExchangeBuffers buffers_;
  Communicator* communicator_ = nullptr;
  std::vector<Choice> choices_;  // Ascending; the first from 0 on.
  // Of the step.
  int64_t capacity_ = 0;
  kernels::MoeDispatch form_ = kernels::MoeDispatch::kAllToAll;
  int64_t num_tokens_ = 0;
  int64_t deadline_ns_ = 0;
};

}  // namespace facet::worker
