// Ranks that share the experts of one small model, as threads of a test: each with a model, a KV
// cache and sequences of its own, fed with prompts in chunks.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "worker/comm/local_communicator.h"
#include "worker/model/gemma4.h"

namespace facet::test {

constexpr absl::Duration kRankPatience = absl::Seconds(60);

struct RankSetup {
  std::string model = "tests/golden/models/moe";  // 16 experts, 4 for a token, in 6 layers.
  kernels::DType dtype = kernels::DType::kF32;
  std::function<std::unique_ptr<kernels::Backend>()> make_backend;
  std::optional<kernels::MoeDispatch> form;  // Unset: what is measured.
  // Makes a communicator fit for the backend.
  std::function<std::unique_ptr<worker::Communicator>(std::unique_ptr<worker::Communicator>,
                                                      kernels::Backend&)>
      wrap = [](std::unique_ptr<worker::Communicator> communicator, kernels::Backend&) {
        return communicator;
      };
};

// A prompt, and the logits of its tokens so far: bits, to be compared as such.
struct FedSequence {
  std::vector<int32_t> ids;
  std::vector<float> logits;
  int32_t num_fed = 0;

  int32_t num_left() const { return static_cast<int32_t>(ids.size()) - num_fed; }
};

// One rank, driven by one thread.
class ExpertRank {
 public:
  static constexpr int32_t kTokensMax = 128;  // Of a step.

  ExpertRank(const RankSetup& setup, const worker::ExpertShare& share)
      : setup_(setup),
        config_(*worker::LoadGemma4Config(setup.model)),
        backend_(setup.make_backend()),
        model_(config_,
               *worker::LoadGemma4Weights(*worker::Checkpoint::Open(setup.model),
                                          config_,
                                          share,
                                          setup.dtype,
                                          *backend_,
                                          nullptr),
               setup.dtype,
               *backend_,
               kTokensMax),
        kv_(*backend_,
            *worker::PlanKvLayout(
                worker::Gemma4::KvShapes(config_, setup.dtype), config_.window, 32 << 20),
            worker::Gemma4::KvShapes(config_, setup.dtype)),
        last_tokens_(backend_->Allocate(4)) {
    if (share.shared()) {
      exchange_.emplace(config_, setup.dtype, *backend_,
                        worker::ExpertExchange::Options{
                            .share = share, .tokens_max = kTokensMax, .form = setup.form});
    }
  }

  worker::ExpertExchange& exchange() { return *exchange_; }

  // The group's next end; the one before is gone afterwards.
  Status SetCommunicator(StatusOr<std::unique_ptr<worker::Communicator>> communicator) {
    FACET_RETURN_IF_ERROR(communicator.status());
    FACET_RETURN_IF_ERROR(exchange_->SetCommunicator(nullptr, kRankPatience));
    communicator_ = setup_.wrap(*std::move(communicator), *backend_);
    return exchange_->SetCommunicator(communicator_.get(), kRankPatience);
  }

  void Leave() {
    (void)exchange_->SetCommunicator(nullptr, kRankPatience);
    communicator_.reset();
  }

  // Feeds the next chunk_tokens of each sequence that has some left. Others and the logits stay as
  // they were if that fails.
  Status Step(const std::vector<FedSequence*>& sequences,
              int32_t chunk_tokens,
              int64_t rank_tokens_max) {
    if (exchange_) FACET_RETURN_IF_ERROR(exchange_->BeginStep(rank_tokens_max, kRankPatience));
    backend_->BeginStep();
    Status status = Forward(sequences, chunk_tokens);
    backend_->EndStep()->Wait();
    return status;
  }

 private:
  static constexpr int32_t kBlocksOfSequence = 4;

  struct Rows {
    std::vector<std::vector<int32_t>> offsets;
    std::vector<kernels::AttentionRow> rows;
  };

  Status Forward(const std::vector<FedSequence*>& sequences, int32_t chunk_tokens) {
    std::vector<int32_t> ids;
    std::vector<int32_t> places;  // Every token wants logits.
    Rows rows[2];
    for (size_t s = 0; s < sequences.size(); ++s) {
      const FedSequence& sequence = *sequences[s];
      const int32_t chunk = std::min(chunk_tokens, sequence.num_left());
      if (chunk == 0) continue;
      for (const worker::KvGeometry geometry : worker::kKvGeometries) {
        AddRow(sequence, static_cast<int32_t>(s), static_cast<int32_t>(ids.size()), chunk, geometry,
               rows[static_cast<int>(geometry)]);
      }
      for (int32_t i = 0; i < chunk; ++i) {
        places.push_back(static_cast<int32_t>(ids.size()));
        ids.push_back(sequence.ids[sequence.num_fed + i]);
      }
    }
    if (ids.empty()) return exchange_ ? model_.ServeExperts(*exchange_) : absl::OkStatus();
    FACET_ASSIGN_OR_RETURN(const kernels::ConstTensorView logits,
                           model_.Forward({.ids = ids,
                                           .last_tokens = kernels::ConstTensorView(
                                               last_tokens_.data(), kernels::DType::kI32, {1}),
                                           .sliding_rows = rows[0].rows,
                                           .full_rows = rows[1].rows,
                                           .logits_rows = places,
                                           .exchange = exchange_ ? &*exchange_ : nullptr},
                                          kv_));
    std::vector<float> values(static_cast<size_t>(logits.num_elements()));
    backend_->CopyToHost(values.data(), logits.raw(), logits.num_elements() * 4);
    auto from = values.begin();
    for (FedSequence* sequence : sequences) {
      const int32_t chunk = std::min(chunk_tokens, sequence->num_left());
      const auto to = from + static_cast<int64_t>(chunk) * config_.vocab;
      sequence->logits.insert(sequence->logits.end(), from, to);
      sequence->num_fed += chunk;
      from = to;
    }
    return absl::OkStatus();
  }

  // Each block has a slab to itself.
  void AddRow(const FedSequence& sequence,
              int32_t slot,
              int32_t first_token,
              int32_t chunk,
              worker::KvGeometry geometry,
              Rows& rows) const {
    std::vector<int32_t>& offsets = rows.offsets.emplace_back();
    for (int32_t b = 0; b < kBlocksOfSequence; ++b) {
      const int32_t slab = (slot * kBlocksOfSequence + b) * 2 + static_cast<int32_t>(geometry);
      FACET_CHECK_LT(slab, kv_.layout().num_slabs);
      offsets.push_back(kv_.OffsetOf(geometry, slab * kv_.layout().of(geometry).blocks_per_slab));
    }
    rows.rows.push_back({.first_token = first_token,
                         .num_tokens = chunk,
                         .first_position = sequence.num_fed,
                         .blocks = offsets});
  }

  const RankSetup& setup_;
  const worker::Gemma4Config config_;
  const std::unique_ptr<kernels::Backend> backend_;
  worker::Gemma4 model_;
  const worker::KvCache kv_;
  const kernels::Buffer last_tokens_;
  std::optional<worker::ExpertExchange> exchange_;
  std::unique_ptr<worker::Communicator> communicator_;
};

// Eight prompts, the same every time: uneven, longer than the window, one of them empty.
inline std::vector<FedSequence> EightSequences() {
  std::mt19937 random(5);
  std::vector<FedSequence> sequences;
  for (const int length : {29, 3, 41, 1, 0, 18, 8, 33}) {
    FedSequence& sequence = sequences.emplace_back();
    while (static_cast<int>(sequence.ids.size()) < length) {
      sequence.ids.push_back(static_cast<int32_t>(random() % 496) + 16);
    }
  }
  return sequences;
}

// Chunks of a prompt, then single tokens.
inline constexpr int32_t kFedChunks[] = {7, 16, 1, 1, 1, 12, 1, 1, 1};

// The largest number of tokens of any rank in a step; sequence s is rank s % num_ranks's.
inline int64_t RankTokensMax(const std::vector<FedSequence>& sequences,
                             int32_t num_ranks,
                             int32_t chunk_tokens) {
  std::vector<int64_t> tokens(num_ranks);
  for (size_t s = 0; s < sequences.size(); ++s) {
    tokens[s % num_ranks] += std::min(chunk_tokens, sequences[s].num_left());
  }
  return *std::max_element(tokens.begin(), tokens.end());
}

// What every rank of a step waits for, by sequence: known beforehand, so that ranks need not talk.
inline std::vector<int64_t> PlanTokensMax(std::vector<FedSequence> sequences, int32_t num_ranks) {
  std::vector<int64_t> plan;
  for (const int32_t chunk : kFedChunks) {
    plan.push_back(RankTokensMax(sequences, num_ranks, chunk));
    for (FedSequence& sequence : sequences)
      sequence.num_fed += std::min(chunk, sequence.num_left());
  }
  return plan;
}

// Calls body(rank) on a thread for each rank; what goes wrong fails the test.
inline void RunExpertRanks(int32_t num_ranks, const std::function<Status(int32_t rank)>& body) {
  std::vector<Status> said(num_ranks);
  std::vector<std::thread> threads;
  threads.reserve(num_ranks);
  for (int32_t rank = 0; rank < num_ranks; ++rank) {
    threads.emplace_back([&, rank] { said[rank] = body(rank); });
  }
  for (std::thread& thread : threads) thread.join();
  for (int32_t rank = 0; rank < num_ranks; ++rank) {
    EXPECT_TRUE(said[rank].ok()) << "rank " << rank << ": " << said[rank];
  }
}

// A rank's share of the sequences.
inline std::vector<FedSequence*> SequencesOf(int32_t rank,
                                             int32_t num_ranks,
                                             std::vector<FedSequence>& sequences) {
  std::vector<FedSequence*> mine;
  for (size_t s = rank; s < sequences.size(); s += num_ranks) mine.push_back(&sequences[s]);
  return mine;
}

// All prompts over this many ranks; one rank is a process without an exchange.
inline std::vector<FedSequence> FeedOverRanks(const RankSetup& setup, int32_t num_ranks) {
  std::vector<FedSequence> sequences = EightSequences();
  const std::vector<int64_t> tokens_max = PlanTokensMax(sequences, num_ranks);
  worker::LocalRendezvous rendezvous(num_ranks);
  RunExpertRanks(num_ranks, [&](int32_t rank) -> Status {
    ExpertRank self(setup, {rank, num_ranks});
    if (num_ranks > 1) {
      FACET_RETURN_IF_ERROR(self.SetCommunicator(rendezvous.Form(rank, 1, kRankPatience)));
    }
    const std::vector<FedSequence*> mine = SequencesOf(rank, num_ranks, sequences);
    for (size_t step = 0; step < tokens_max.size(); ++step) {
      FACET_RETURN_IF_ERROR(self.Step(mine, kFedChunks[step], tokens_max[step]));
    }
    return absl::OkStatus();
  });
  return sequences;
}

// Bit for bit.
inline void ExpectSameLogits(const std::vector<FedSequence>& got,
                             const std::vector<FedSequence>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t s = 0; s < want.size(); ++s) {
    EXPECT_EQ(want[s].num_left(), 0);
    EXPECT_EQ(got[s].num_left(), 0);
    ASSERT_EQ(got[s].logits.size(), want[s].logits.size()) << "sequence " << s;
    EXPECT_TRUE(std::equal(
        got[s].logits.begin(), got[s].logits.end(), want[s].logits.begin(),
        [](float a, float b) { return kernels::BitsOfFloat(a) == kernels::BitsOfFloat(b); }))
        << "sequence " << s;
  }
}

}  // namespace facet::test
