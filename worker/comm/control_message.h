// What the ranks of a group say to each other beside the data: who is there, who failed, who left.
//
// A message on the wire: its length (4 bytes) and then that many bytes, at most
// kControlMessageBytesMax; all integers little-endian:
//   type 1 | fault kind 1 | rank 4 | num_ranks 4 | epoch 8 | step 8
//   | number of numbers 2 | (number 8)… | number of texts 2 | (length 4, bytes)…
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/comm/group_fault.h"
#include "worker/comm/step_header.h"

namespace facet::worker {

constexpr uint32_t kControlMessageBytesMax = 64 << 10;
constexpr int32_t kGroupRanksMax = 64;

constexpr int32_t kSpareRank = -1;  // Of a process that will take any rank.

enum class ControlType : uint8_t {
  kChallenge = 1,  // Hub → stranger: [hub nonce].
  kHello = 2,      // Stranger → hub, with rank, num_ranks, epoch_min: [nonce, proof, addresses].
  kRefused = 3,    // Hub → stranger: {RefusedWhy}, [why]; then it closes.
  kStart = 4,      // Hub → rank, once all are there, with the group's epoch:
                   // [proof, addresses of rank 0, of rank 1, …].
  kHeartbeat = 5,  // Both ways.
  kFault = 6,    // Rank → hub: a suspicion, [reason]; rank -1: of whoever is missing, before the
                 // start or in the step. Hub → rank: what ended the group; the last.
  kLeave = 7,    // Rank → hub: goodbye. Hub → ranks: this rank has left.
  kStep = 8,     // Rank → hub: ready for the step, {num_tokens, weight, leaving}.
  kCalled = 9,   // Hub → ranks: one is ready for the step.
  kBegins = 10,  // Hub → ranks: all are: {num_tokens, weight, leaving of rank 0, of rank 1, …}.
  kAssign = 11,  // Hub → spare: the rank that it is to be, [proof]; then it closes.
};

enum class RefusedWhy : uint8_t {
  kKey = 0,     // The stranger does not know the key, and learns nothing else.
  kMisfit = 1,  // Another size of the group, or no such rank.
  kAgain = 2,   // An older group is about to leave.
  kTaken = 3,   // Another process that is alive holds the rank.
};

struct ControlMessage {
  ControlType type = ControlType::kHeartbeat;
  FaultKind kind = FaultKind::kAborted;  // Of a fault.
  int32_t rank = 0;                      // Whom the message is about.
  int32_t num_ranks = 0;
  int64_t epoch = 0;  // Of the group; of a Hello the lowest that will do.
  int64_t step = 0;
  std::vector<int64_t> numbers;    // {…} above.
  std::vector<std::string> texts;  // […] above.
};

// A wish as numbers of a message.
inline constexpr size_t kWishNumbers = 3;
void AppendWish(const StepWish& wish, std::vector<int64_t>& numbers);
// The wish that begins at numbers[first]; nothing if it is none.
std::optional<StepWish> WishAt(const std::vector<int64_t>& numbers, size_t first);

// With the length in front.
std::string EncodeControl(const ControlMessage& message);

// What follows the length; nothing if it is not a message. At most 3 × kGroupRanksMax numbers and
// kGroupRanksMax + 1 texts may be in it.
std::optional<ControlMessage> DecodeControl(std::string_view body);

enum class ProofBy { kHub, kRank };

// Shows knowledge of the group key, which itself never travels: HMAC-SHA256 over both sides'
// nonces, who speaks, and what a Hello says about rank, group and addresses.
std::string GroupProof(std::string_view key,
                       ProofBy by,
                       std::string_view hub_nonce,
                       const ControlMessage& hello);

// Takes equally long wherever the two differ.
bool SameProof(std::string_view a, std::string_view b);

std::string FreshNonce();

}  // namespace facet::worker
